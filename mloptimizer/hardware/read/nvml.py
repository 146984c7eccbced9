"""Finds NVIDIA's GPUs through the driver's management library (NVML), and reads how much of them is in use.

Nothing here raises: without the library, a driver or a GPU there are no GPUs, and what a GPU or its driver does not
offer is missing. A partitioned GPU (MIG) is listed as its instances. One MB is 2**20 bytes.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")
INSTANCE = "MIG-"  # prefix of an instance's UUID
_ABSENT = (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLError_ArgumentVersionMismatch)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, or an instance of a partitioned one; what its driver does not report is None."""

    index: int  # in PCI order, as in nvidia-smi and under CUDA_DEVICE_ORDER=PCI_BUS_ID; for an instance, its GPU's
    uuid: str
    name: str | None
    memory_mb: int  # 0 if the driver does not report it
    compute_capability: tuple[int, int] | None
    driver: str | None
    mig: bool | None  # whether it is an instance of a partitioned GPU, of which a process can use only one
    parent: str | None = None  # an instance's GPU, by UUID
    instance: tuple[int, int] | None = None  # an instance's numbers: GPU instance, compute instance

    @property
    def label(self) -> str:
        """What distinguishes it from the other GPUs of this machine: ``0``, or ``0.7.0`` for an instance."""
        return ".".join(map(str, (self.index, *(self.instance or ()))))


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, in CUDA's order.

    CUDA_VISIBLE_DEVICES counts as it does for CUDA under CUDA_DEVICE_ORDER=PCI_BUS_ID: indices in PCI order, or UUIDs
    or their beginnings, up to the first entry that names no GPU. Lost GPUs are left out, and so are GPUs partitioned
    into no instances, which cannot compute.
    """
    with _opened() as is_open:
        count = (ask(pynvml.nvmlDeviceGetCount) if is_open else None) or 0
        gpus = [gpu for index in range(count) for gpu in _list_at(index)]
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def cuda_version() -> str | None:
    """Return the newest CUDA version that the driver can run, such as 13.0; None if no driver reports one."""
    with _opened() as is_open:
        version = ask(pynvml.nvmlSystemGetCudaDriverVersion) if is_open else None
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order; None names all.

    The index or UUID of a partitioned GPU names its first instance, as it does for CUDA. Instances have their own
    UUIDs, and names of the form ``MIG-GPU-UUID/7/0``. Of several instances CUDA would use only the first; here each of
    them can serve a process.
    """
    if visible is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in visible.split(","):
        found = _find_named(gpus, entry.strip())
        if found is None or found in chosen:
            break
        chosen.append(found)
    return chosen


def _find_named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    """Return the GPU that an entry of CUDA_VISIBLE_DEVICES names; None if it names none or several."""
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
    """Keep the library open during the block; yield whether it opened."""
    is_open = open_nvml()
    try:
        yield is_open
    finally:
        if is_open:
            close_nvml()


def open_nvml() -> bool:
    """Load and start the library; False if there is none. Each success needs one `close_nvml`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def close_nvml() -> None:
    """Undo one `open_nvml`."""
    ask(pynvml.nvmlShutdown)


def ask(function: Callable[..., T], *arguments: object) -> T | None:
    """Return the answer of a function of NVML, None where it fails."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def first_offered(functions: Iterable[Callable[..., Any]], *arguments: object) -> Any:
    """Return the answer of the first function that this driver offers: old drivers lack new ones, new ones drop old.

    Raises NVMLError: the driver offers none of them, or the first that it offers failed.
    """
    for function in functions:
        try:
            return function(*arguments)
        except _ABSENT:
            continue
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def read_memory(handle: Any) -> tuple[float, float]:
    """Return the used and the total memory of a GPU or an instance, MB. Raises NVMLError: the driver reports none."""
    memory = _memory_info(handle)
    return memory.used / 2**20, memory.total / 2**20


def _memory_info(handle: Any) -> Any:
    memory = pynvml.nvmlDeviceGetMemoryInfo  # its first version counts the driver's own memory as used
    return first_offered((functools.partial(memory, version=pynvml.nvmlMemory_v2), memory), handle)


def _list_at(index: int) -> list[Gpu]:
    """Return the GPU with this index, or a partitioned GPU's instances."""
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
    name, memory_mb = ask(pynvml.nvmlDeviceGetName, handle) or gpu.name, _memory_mb(handle)
    numbers = (pynvml.nvmlDeviceGetGpuInstanceId, pynvml.nvmlDeviceGetComputeInstanceId)
    instance = (ask(numbers[0], handle) or 0, ask(numbers[1], handle) or 0)
    return replace(gpu, uuid=uuid, name=name, memory_mb=memory_mb, mig=True, parent=gpu.uuid, instance=instance)


def _memory_mb(handle: Any) -> int:
    return int((ask(read_memory, handle) or (0, 0))[1])


@dataclass(frozen=True)
class GpuUse:
    """How much of some GPUs together is in use."""

    pids: frozenset[int]  # processes computing on them, as far as NVML lists them
    used_mb: float
    free_mb: float = 0.0  # of the GPU with the least


class GpuUseReader:
    """Reads how much of some GPUs is in use; keeps the library open from the first reading until `close`."""

    def __init__(self) -> None:
        self._is_open = False

    def read(self, uuids: Sequence[str]) -> GpuUse | None:
        """Return how much of these GPUs is in use, None if NVML does not report it."""
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
            pids.update(process.pid for process in ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or ())
        return GpuUse(frozenset(pids), used_mb, free_mb if uuids else 0.0)

    def close(self) -> None:
        """Close the library, if it is open."""
        if self._is_open:
            close_nvml()
        self._is_open = False
