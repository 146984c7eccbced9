"""Reads NVIDIA's GPUs through the driver's management library (NVML); the only module that imports pynvml.

Nothing here raises: without the library, a driver or a GPU there are no GPUs, and a figure that a GPU or its driver
does not offer is missing. One MB is 2**20 bytes.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from mloptimizer.hardware.columns import Column

T = TypeVar("T")
_ABSENT = (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLError_ArgumentVersionMismatch)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine; what its driver does not tell is None."""

    index: int  # in PCI order, as in nvidia-smi and under CUDA_DEVICE_ORDER=PCI_BUS_ID
    uuid: str
    name: str | None
    memory_mb: int  # 0 where the driver does not tell
    compute_capability: tuple[int, int] | None
    driver: str | None
    mig: bool | None  # whether it is partitioned into instances, which a process can use one at a time only


GPU_COLUMNS = (
    Column("utilization_percent", "%", "time in which a kernel ran, lately", "nvmlDeviceGetUtilizationRates, gpu"),
    Column("memory_utilization_percent", "%", "time in which its memory was read or written, lately",
           "nvmlDeviceGetUtilizationRates, memory"),
    Column("memory_used_mb", "MB", "memory in use, by every process", "nvmlDeviceGetMemoryInfo_v2, used"),
    Column("memory_total_mb", "MB", "memory that it has", "nvmlDeviceGetMemoryInfo_v2, total"),
    Column("process_memory_mb", "MB", "memory in use by the trial's processes; empty while NVML lists none of them: "
           "before they start CUDA, and in containers with process numbers of their own",
           "nvmlDeviceGetComputeRunningProcesses_v3"),
    Column("power_w", "W", "power drawn; the mean of the last second on Ampere and newer", "nvmlDeviceGetPowerUsage"),
    Column("energy_j", "J", "energy since the log began; empty before Volta", "nvmlDeviceGetTotalEnergyConsumption"),
    Column("temperature_c", "°C", "temperature of the chip", "nvmlDeviceGetTemperatureV, GPU"),
    Column("sm_clock_mhz", "MHz", "clock of the multiprocessors", "nvmlDeviceGetClockInfo, SM"),
    Column("memory_clock_mhz", "MHz", "clock of the memory", "nvmlDeviceGetClockInfo, MEM"),
    Column("pcie_rx_mb_s", "MB/s", "received over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, RX_BYTES"),
    Column("pcie_tx_mb_s", "MB/s", "sent over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, TX_BYTES"),
)  # fmt: skip


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, in the order in which CUDA numbers them.

    CUDA_VISIBLE_DEVICES is respected as CUDA does under CUDA_DEVICE_ORDER=PCI_BUS_ID: indices in PCI order, or UUIDs or
    their beginnings, up to the first entry that names no GPU. A GPU that is lost is left out.
    """
    if not open_nvml():
        return []
    try:
        count = _ask(pynvml.nvmlDeviceGetCount) or 0
        gpus = [gpu for gpu in map(_describe, range(count)) if gpu is not None]
    finally:
        close_nvml()
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def cuda_version() -> str | None:
    """Return the newest CUDA version that the driver can run, such as 13.0; None without a driver that tells."""
    if not open_nvml():
        return None
    try:
        version = _ask(pynvml.nvmlSystemGetCudaDriverVersion)
    finally:
        close_nvml()
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order; None names all."""
    if visible is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in (word.strip() for word in visible.split(",")):
        if entry.isdecimal():
            found = [gpu for gpu in gpus if gpu.index == int(entry)]
        else:
            found = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def open_nvml() -> bool:
    """Load and start the library; False where there is none. Each success needs one `close_nvml`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def close_nvml() -> None:
    """End what one `open_nvml` began."""
    _ask(pynvml.nvmlShutdown)


def _ask(function: Callable[..., T], *arguments: object) -> T | None:
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _describe(index: int) -> Gpu | None:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = _ask(pynvml.nvmlDeviceGetUUID, handle) if handle else None
    if uuid is None:
        return None
    memory = _ask(_memory, handle)
    mig = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    return Gpu(
        index=index,
        uuid=uuid,
        name=_ask(pynvml.nvmlDeviceGetName, handle),
        memory_mb=0 if memory is None else int(memory[1]),
        compute_capability=_ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        driver=_ask(pynvml.nvmlSystemGetDriverVersion),
        mig=None if mig is None else bool(mig[0]),
    )


class GpuReader:
    """Reads the figures of one GPU; after `open_nvml`, in the process that opened it."""

    def __init__(self, uuid: str) -> None:
        self._handle = _ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
        self._first_energy: float | None = None

    def read(self, pids: Collection[int]) -> list[float | None]:
        """Return the figures in the order of `GPU_COLUMNS`, None for what cannot be read now.

        Args:
            pids: the processes whose memory counts as the trial's.
        """
        cells: dict[str, float | None] = dict.fromkeys(column.name for column in GPU_COLUMNS)
        for names, reading in _READINGS if self._handle else ():
            try:
                cells.update(zip(names, reading(self._handle), strict=True))
            except pynvml.NVMLError_GpuIsLost:
                break
            except pynvml.NVMLError:
                continue
        cells["process_memory_mb"] = self._process_memory(pids)
        cells["energy_j"] = self._energy()
        return list(cells.values())

    def _process_memory(self, pids: Collection[int]) -> float | None:
        processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, self._handle) if self._handle else None
        used = [p.usedGpuMemory for p in processes or () if p.pid in pids and p.usedGpuMemory is not None]
        return sum(used) / 2**20 if used else None

    def _energy(self) -> float | None:
        millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle) if self._handle else None
        if millijoules is None:
            return None
        if self._first_energy is None:
            self._first_energy = millijoules
        return (millijoules - self._first_energy) / 1000


@dataclass(frozen=True)
class GpuUse:
    """What is in use of some GPUs together."""

    pids: frozenset[int]  # of the processes that compute on them, as far as NVML lists them
    used_mb: float


class GpuUseReader:
    """Reads what is in use of GPUs; the library is open from the first reading until `close`."""

    def __init__(self) -> None:
        self._is_open = False

    def read(self, uuids: Sequence[str]) -> GpuUse | None:
        """Return what is in use of these GPUs, None where NVML does not tell."""
        self._is_open = self._is_open or open_nvml()
        pids: set[int] = set()
        used_mb = 0.0
        for uuid in uuids:
            handle = _ask(pynvml.nvmlDeviceGetHandleByUUID, uuid) if self._is_open else None
            memory = _ask(_memory, handle) if handle else None
            if memory is None:
                return None
            used_mb += memory[0]
            processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or ()
            pids.update(process.pid for process in processes)
        return GpuUse(frozenset(pids), used_mb)

    def close(self) -> None:
        """Close the library, if it is open."""
        if self._is_open:
            close_nvml()
        self._is_open = False


def _first_offered(calls: Iterable[Callable[[], Any]]) -> Any:
    """Return what the first call gives that this driver offers: old ones lack new functions, new ones drop old ones."""
    for call in calls:
        try:
            return call()
        except _ABSENT:
            continue
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def _utilization(handle: Any) -> tuple[float, ...]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _memory(handle: Any) -> tuple[float, ...]:
    memory = _first_offered((
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),  # counts what the driver keeps for itself as used
    ))  # fmt: skip
    return memory.used / 2**20, memory.total / 2**20


def _power(handle: Any) -> tuple[float, ...]:
    return (pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,)


def _temperature(handle: Any) -> tuple[float, ...]:
    celsius = _first_offered((
        lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
        lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    ))  # fmt: skip
    return (celsius,)


def _sm_clock(handle: Any) -> tuple[float, ...]:
    return (pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),)


def _memory_clock(handle: Any) -> tuple[float, ...]:
    return (pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),)


def _received(handle: Any) -> tuple[float, ...]:
    return (pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_RX_BYTES) / 1024,)


def _sent(handle: Any) -> tuple[float, ...]:
    return (pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_TX_BYTES) / 1024,)


_READINGS: tuple[tuple[tuple[str, ...], Callable[[Any], tuple[float, ...]]], ...] = (
    (("utilization_percent", "memory_utilization_percent"), _utilization),
    (("memory_used_mb", "memory_total_mb"), _memory),
    (("power_w",), _power),
    (("temperature_c",), _temperature),
    (("sm_clock_mhz",), _sm_clock),
    (("memory_clock_mhz",), _memory_clock),
    (("pcie_rx_mb_s",), _received),
    (("pcie_tx_mb_s",), _sent),
)
