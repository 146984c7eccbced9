"""Reads one NVIDIA GPU, or one instance of a partitioned GPU, for the hardware log.

Nothing here raises. A value that the GPU or its driver does not offer is missing, and so is every value of a lost GPU
until it returns. An instance has its own memory and processes, and the clocks, temperature and throttle reasons of its
GPU. Values that a GPU's instances share (utilization, power, energy, links) are missing: each instance would count them
again. One MB is 2**20 bytes.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal

import pynvml

from mloptimizer.hardware.columns import SHORTEST_RATE_SECONDS, Column
from mloptimizer.hardware.read.nvml import INSTANCE, ask, close_nvml, first_offered, open_nvml, read_memory

GPU_COLUMNS = (
    Column("utilization_percent", "%", "share of recent time in which a kernel ran",
           "nvmlDeviceGetUtilizationRates, gpu"),
    Column("memory_utilization_percent", "%", "share of recent time in which its memory was read or written",
           "nvmlDeviceGetUtilizationRates, memory"),
    Column("memory_used_mb", "MB", "memory in use by all processes", "nvmlDeviceGetMemoryInfo_v2, used", "max"),
    Column("memory_total_mb", "MB", "total memory", "nvmlDeviceGetMemoryInfo_v2, total", "last"),
    Column("process_memory_mb", "MB", "memory in use by the trial's processes; empty while NVML lists none of them: "
           "before they start CUDA, and in containers with their own process numbers",
           "nvmlDeviceGetComputeRunningProcesses_v3", "max"),
    Column("power_w", "W", "power draw; on Ampere and newer the mean of the last second", "nvmlDeviceGetPowerUsage"),
    Column("power_limit_w", "W", "power limit", "nvmlDeviceGetEnforcedPowerLimit", "last"),
    Column("energy_j", "J", "energy since the log began; never decreases: if the counter does, the power is integrated "
           "instead; empty before Volta", "nvmlDeviceGetTotalEnergyConsumption", "last"),
    Column("temperature_c", "°C", "temperature of the chip", "nvmlDeviceGetTemperatureV, GPU", "max"),
    Column("sm_clock_mhz", "MHz", "clock of the multiprocessors", "nvmlDeviceGetClockInfo, SM"),
    Column("sm_clock_max_mhz", "MHz", "highest clock of the multiprocessors", "nvmlDeviceGetMaxClockInfo, SM", "last"),
    Column("memory_clock_mhz", "MHz", "clock of the memory", "nvmlDeviceGetClockInfo, MEM"),
    # bit masks have no mean, and combining their bits would turn a moment of throttling into a long one: hence "last"
    Column("throttle_reasons", "bit mask", "why the clocks are not higher: 1 idle, 2 clocks set by a user, 4 power "
           "limit, 8 hardware slowdown, 16 clocks of other GPUs, 32 and 64 temperature, 128 power brake, 256 display",
           "nvmlDeviceGetCurrentClocksEventReasons", "last"),
    Column("pcie_rx_mb_s", "MB/s", "received over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, RX_BYTES"),
    Column("pcie_tx_mb_s", "MB/s", "sent over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, TX_BYTES"),
    Column("nvlink_rx_mb_s", "MB/s", "received over all NVLinks since the previous row; empty without NVLink",
           "nvmlDeviceGetFieldValues, NVLINK_THROUGHPUT_DATA_RX"),
    Column("nvlink_tx_mb_s", "MB/s", "sent over all NVLinks since the previous row; empty without NVLink",
           "nvmlDeviceGetFieldValues, NVLINK_THROUGHPUT_DATA_TX"),
)  # fmt: skip

_ALL_LINKS = 0xFFFFFFFF  # in place of a link's number
_LINK_COUNTERS = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX)


class GpuReader:
    """Reads one GPU. Create it in the process that reads: NVML does not survive a fork."""

    def __init__(self, uuid: str) -> None:
        """Open the library, until `close`; `uuid` is that of a GPU or of an instance."""
        self._uuid = uuid
        self._is_open = open_nvml()
        self._handles = _find_handles(uuid)
        self._energy = EnergyCounter()
        self._links = _LinkRates()

    def read(self, pids: Collection[int], now: float) -> list[float | None]:
        """Return the values in the order of `GPU_COLUMNS`, None for each that cannot be read now.

        Args:
            pids: the processes whose memory counts as the trial's.
            now: seconds from any origin.
        """
        cells: dict[str, float | None] = dict.fromkeys(column.name for column in GPU_COLUMNS)
        if self._is_open and self._handles is None:
            self._handles = _find_handles(self._uuid)
        values = _read_values(self._handles) if self._handles else {}
        if self._handles and values:
            own = self._handles.get("own")
            cells |= values
            cells["process_memory_mb"] = _process_memory(own, pids)
            if "together" in self._handles:
                counter = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, own)
                cells["energy_j"] = self._energy.add(counter, cells["power_w"], now)
                cells["nvlink_rx_mb_s"], cells["nvlink_tx_mb_s"] = self._links.read(own, now)
        else:  # the GPU is lost, and its handles with it: it has others if it returns
            self._handles = None
        return list(cells.values())

    def close(self) -> None:
        """Release the library; all cells are empty from now on."""
        if self._is_open:
            close_nvml()
        self._is_open, self._handles = False, None


def _find_handles(uuid: str) -> "dict[_Scope, Any] | None":
    """Return NVML's handle to read for each scope; an instance has none for `together`."""
    own = ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    if not (own and uuid.startswith(INSTANCE)):
        return {"own": own, "chip": own, "together": own} if own else None
    chip = ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, own)
    return {"own": own, "chip": chip} if chip else None


class EnergyCounter:
    """Adds up what an energy counter gains; where the counter falls, the integrated power since its last reading."""

    def __init__(self) -> None:
        self._joules = 0.0
        self._counted: tuple[float, float] | None = None  # time and value of the counter's last reading, s and mJ
        self._powered: tuple[float, float] | None = None  # time and value of the last power reading, s and W
        self._bridge_j = 0.0  # integrated power since the counter's last reading

    def add(self, counter_mj: float | None, power_w: float | None, now: float) -> float | None:
        """Return the energy in J since the counter's first reading; None without a reading now.

        Args:
            counter_mj: the counter; after a gap it includes what it gained meanwhile.
            power_w: the power, integrated over time (trapezoid rule) to stand in for a counter that fell.
            now: seconds from any origin.
        """
        if power_w is not None:
            if self._powered:
                then, before_w = self._powered
                since = max(then, self._counted[0]) if self._counted else then
                self._bridge_j += (now - since) * (before_w + power_w) / 2
            self._powered = now, power_w
        if counter_mj is None:
            return None
        if self._counted:
            gain_j = (counter_mj - self._counted[1]) / 1000
            self._joules += gain_j if gain_j >= 0 else self._bridge_j
        self._counted, self._bridge_j = (now, counter_mj), 0.0
        return self._joules


class _LinkRates:
    """Turns the counters of all NVLinks together into rates."""

    def __init__(self) -> None:
        self._before: tuple[float, list[float]] | None = None

    def read(self, handle: Any, now: float) -> tuple[float | None, float | None]:
        """Return what was received and sent since the previous row, MB/s."""
        if self._before and now - self._before[0] < SHORTEST_RATE_SECONDS:
            return None, None
        counters = ask(_link_counters, handle)
        before, self._before = self._before, None if counters is None else (now, counters)
        if before is None or counters is None:
            return None, None
        rates = [(after - then) / 1024 / (now - before[0]) for after, then in zip(counters, before[1], strict=True)]
        received, sent = (rate if rate >= 0 else None for rate in rates)  # a counter that fell has restarted
        return received, sent


def _link_counters(handle: Any) -> list[float]:
    """Return what was received and sent over all NVLinks, KB."""
    values = pynvml.nvmlDeviceGetFieldValues(handle, [(field, _ALL_LINKS) for field in _LINK_COUNTERS])
    for value in values:
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(value.nvmlReturn)
    return [value.value.ullVal for value in values]


def _process_memory(handle: Any, pids: Collection[int]) -> float | None:
    processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    used = [p.usedGpuMemory for p in processes or () if p.pid in pids and p.usedGpuMemory is not None]
    return sum(used) / 2**20 if used else None


def _read_values(handles: "dict[_Scope, Any]") -> dict[str, float | None]:
    """Return what could be read, by column; nothing from a lost GPU."""
    cells: dict[str, float | None] = {}
    for names, scope, read in _READINGS:
        if scope not in handles:
            continue
        try:
            values = read(handles[scope])
        except pynvml.NVMLError_GpuIsLost:
            return {}
        except pynvml.NVMLError:
            continue
        cells.update(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
    return cells


def _utilization(handle: Any) -> tuple[float, ...]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


_TEMPERATURE = (pynvml.nvmlDeviceGetTemperatureV, pynvml.nvmlDeviceGetTemperature)  # the newer function first
_THROTTLING = (pynvml.nvmlDeviceGetCurrentClocksEventReasons, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
_Scope = Literal["own", "chip", "together"]  # an instance's own; its GPU's, the same for each; the sum of all instances
_READINGS: tuple[tuple[tuple[str, ...], _Scope, Callable[[Any], float | tuple[float, ...]]], ...] = (
    (("utilization_percent", "memory_utilization_percent"), "together", _utilization),
    (("memory_used_mb", "memory_total_mb"), "own", read_memory),
    (("power_w",), "together", lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    (("power_limit_w",), "together", lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000),
    (("temperature_c",), "chip", lambda gpu: first_offered(_TEMPERATURE, gpu, pynvml.NVML_TEMPERATURE_GPU)),
    (("sm_clock_mhz",), "chip", lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)),
    (("sm_clock_max_mhz",), "chip", lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM)),
    (("memory_clock_mhz",), "chip", lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM)),
    (("throttle_reasons",), "chip", lambda gpu: first_offered(_THROTTLING, gpu)),
    (("pcie_rx_mb_s",), "together",
     lambda gpu: pynvml.nvmlDeviceGetPcieThroughput(gpu, pynvml.NVML_PCIE_UTIL_RX_BYTES) / 1024),
    (("pcie_tx_mb_s",), "together",
     lambda gpu: pynvml.nvmlDeviceGetPcieThroughput(gpu, pynvml.NVML_PCIE_UTIL_TX_BYTES) / 1024),
)  # fmt: skip
