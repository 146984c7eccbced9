"""Finds NVIDIA's GPUs through the driver's management library (NVML), and says what is in use of them.

Nothing here raises: without the library, a driver or a GPU there are no GPUs, and what a GPU or its driver does not
offer is missing. A GPU that is partitioned (MIG) is listed as its instances. One MB is 2**20 bytes.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")
INSTANCE = "MIG-"  # what the UUID of an instance begins with
_ABSENT = (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLError_ArgumentVersionMismatch)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, or an instance of one that is partitioned; what its driver does not tell is None."""

    index: int  # in PCI order, as in nvidia-smi and under CUDA_DEVICE_ORDER=PCI_BUS_ID; of an instance, its GPU's
    uuid: str
    name: str | None
    memory_mb: int  # 0 where the driver does not tell
    compute_capability: tuple[int, int] | None
    driver: str | None
    mig: bool | None  # whether it is an instance of a partitioned GPU, of which a process can use one only
    parent: str | None = None  # UUID of the GPU that an instance is a part of
    instance: tuple[int, int] | None = None  # of an instance: the numbers of its GPU instance and compute instance

    @property
    def label(self) -> str:
        """What tells it from the other GPUs of this machine: ``0``, or ``0.7.0`` for an instance."""
        return ".".join(map(str, (self.index, *(self.instance or ()))))


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, in the order in which CUDA numbers them.

    CUDA_VISIBLE_DEVICES is respected as CUDA does under CUDA_DEVICE_ORDER=PCI_BUS_ID: indices in PCI order, or UUIDs or
    their beginnings, up to the first entry that names no GPU. A GPU that is lost is left out, and so is one that is
    partitioned into no instances: nothing can be computed on it.
    """
    with _opened() as is_open:
        count = (ask(pynvml.nvmlDeviceGetCount) if is_open else None) or 0
        gpus = [gpu for index in range(count) for gpu in _list_at(index)]
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def cuda_version() -> str | None:
    """Return the newest CUDA version that the driver can run, such as 13.0; None without a driver that tells."""
    with _opened() as is_open:
        version = ask(pynvml.nvmlSystemGetCudaDriverVersion) if is_open else None
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order; None names all.

    The index or UUID of a partitioned GPU names its first instance, as for CUDA. The instances have UUIDs of their own,
    and names of the form ``MIG-GPU-UUID/7/0`` too. Of several, CUDA would take the first; here each is for a process.
    """
    if visible is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in (word.strip() for word in visible.split(",")):
        found = _find_named(gpus, entry)
        if found is None or found in chosen:
            break
        chosen.append(found)
    return chosen


def _find_named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    """Return the GPU that an entry of CUDA_VISIBLE_DEVICES names, None where it names none or several."""
    if entry.startswith(INSTANCE):
        named = [gpu for gpu in gpus if gpu.mig and (gpu.uuid.startswith(entry) or _old_name(gpu) == entry)]
        return named[0] if len(named) == 1 else None
    if entry.isdecimal():
        found = [gpu for gpu in gpus if gpu.index == int(entry)]
    else:
        found = [gpu for gpu in gpus if entry.startswith("GPU-") and (gpu.parent or gpu.uuid).startswith(entry)]
    return found[0] if len({gpu.index for gpu in found}) == 1 else None


def _old_name(instance: Gpu) -> str:
    return "/".join(map(str, (INSTANCE + (instance.parent or ""), *(instance.instance or ()))))


@contextlib.contextmanager
def _opened() -> Iterator[bool]:
    """Have the library open meanwhile; give whether it is."""
    is_open = open_nvml()
    try:
        yield is_open
    finally:
        if is_open:
            close_nvml()


def open_nvml() -> bool:
    """Load and start the library; False where there is none. Each success needs one `close_nvml`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def close_nvml() -> None:
    """End what one `open_nvml` began."""
    ask(pynvml.nvmlShutdown)


def ask(function: Callable[..., T], *arguments: object) -> T | None:
    """Return what a function of NVML answers, None where it fails."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def first_offered(calls: Iterable[Callable[[], Any]]) -> Any:
    """Return what the first call gives that this driver offers: old ones lack new functions, new ones drop old ones.

    Raises:
        NVMLError: the driver offers none of them, or the first that it offers failed.
    """
    for call in calls:
        try:
            return call()
        except _ABSENT:
            continue
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def read_memory(handle: Any) -> tuple[float, float]:
    """Return the memory in use and the memory that there is, MB, of a GPU or an instance.

    Raises:
        NVMLError: the driver does not tell.
    """
    memory = _memory_info(handle)
    return memory.used / 2**20, memory.total / 2**20


def _memory_info(handle: Any) -> Any:
    return first_offered((
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),  # counts what the driver keeps for itself as used
    ))  # fmt: skip


def _list_at(index: int) -> list[Gpu]:
    """Return the GPU with this index, or the instances of one that is partitioned."""
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = ask(pynvml.nvmlDeviceGetUUID, handle) if handle else None
    if uuid is None:
        return []
    mig = ask(pynvml.nvmlDeviceGetMigMode, handle)
    gpu = Gpu(
        index=index,
        uuid=uuid,
        name=ask(pynvml.nvmlDeviceGetName, handle),
        memory_mb=_memory_mb(handle),
        compute_capability=ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        driver=ask(pynvml.nvmlSystemGetDriverVersion),
        mig=None if mig is None else False,
    )
    if not (mig and mig[0]):
        return [gpu]
    places = range(ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)  # some of them are empty
    handles = [ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in places]
    instances = [_describe_instance(gpu, instance) for instance in handles if instance]
    return [instance for instance in instances if instance is not None]


def _describe_instance(gpu: Gpu, handle: Any) -> Gpu | None:
    uuid = ask(pynvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return None
    numbers = ask(pynvml.nvmlDeviceGetGpuInstanceId, handle), ask(pynvml.nvmlDeviceGetComputeInstanceId, handle)
    return replace(
        gpu,
        uuid=uuid,
        name=ask(pynvml.nvmlDeviceGetName, handle) or gpu.name,
        memory_mb=_memory_mb(handle),
        mig=True,
        parent=gpu.uuid,
        instance=(numbers[0] or 0, numbers[1] or 0),
    )


def _memory_mb(handle: Any) -> int:
    memory = ask(read_memory, handle)
    return 0 if memory is None else int(memory[1])


@dataclass(frozen=True)
class GpuUse:
    """What is in use of some GPUs together."""

    pids: frozenset[int]  # of the processes that compute on them, as far as NVML lists them
    used_mb: float
    free_mb: float = 0.0  # of the one that has least


class GpuUseReader:
    """Reads what is in use of GPUs; the library is open from the first reading until `close`."""

    def __init__(self) -> None:
        self._is_open = False

    def read(self, uuids: Sequence[str]) -> GpuUse | None:
        """Return what is in use of these GPUs, None where NVML does not tell."""
        self._is_open = self._is_open or open_nvml()
        pids: set[int] = set()
        used_mb, free_mb = 0.0, math.inf
        for uuid in uuids:
            handle = ask(pynvml.nvmlDeviceGetHandleByUUID, uuid) if self._is_open else None
            memory = ask(_memory_info, handle) if handle else None
            if memory is None:
                return None
            used_mb += memory.used / 2**20
            free_mb = min(free_mb, memory.free / 2**20)
            processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or ()
            pids.update(process.pid for process in processes)
        return GpuUse(frozenset(pids), used_mb, free_mb if uuids else 0.0)

    def close(self) -> None:
        """Close the library, if it is open."""
        if self._is_open:
            close_nvml()
        self._is_open = False
