"""Reads the figures of one NVIDIA GPU, or of one instance of a partitioned GPU, for the hardware log.

Nothing here raises: a figure that the GPU or its driver does not offer is missing, and so are all of a GPU that is
lost, until it is back. An instance has memory and processes of its own, and the clocks, the temperature and the
throttle reasons of its GPU; what the instances of a GPU use together (time, power, energy, links) is missing, as it
would count for each of them. One MB is 2**20 bytes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import pynvml

from mloptimizer.hardware.columns import SHORTEST_RATE_SECONDS, Column
from mloptimizer.hardware.read.nvml import INSTANCE, ask, close_nvml, first_offered, open_nvml, read_memory

GPU_COLUMNS = (
    Column("utilization_percent", "%", "time in which a kernel ran, lately", "nvmlDeviceGetUtilizationRates, gpu"),
    Column("memory_utilization_percent", "%", "time in which its memory was read or written, lately",
           "nvmlDeviceGetUtilizationRates, memory"),
    Column("memory_used_mb", "MB", "memory in use, by every process", "nvmlDeviceGetMemoryInfo_v2, used", "max"),
    Column("memory_total_mb", "MB", "memory that it has", "nvmlDeviceGetMemoryInfo_v2, total", "last"),
    Column("process_memory_mb", "MB", "memory in use by the trial's processes; empty while NVML lists none of them: "
           "before they start CUDA, and in containers with process numbers of their own",
           "nvmlDeviceGetComputeRunningProcesses_v3", "max"),
    Column("power_w", "W", "power drawn; the mean of the last second on Ampere and newer", "nvmlDeviceGetPowerUsage"),
    Column("power_limit_w", "W", "power that it may draw", "nvmlDeviceGetEnforcedPowerLimit", "last"),
    Column("energy_j", "J", "energy since the log began; never falls: where the counter does, the power is integrated; "
           "empty before Volta", "nvmlDeviceGetTotalEnergyConsumption", "last"),
    Column("temperature_c", "°C", "temperature of the chip", "nvmlDeviceGetTemperatureV, GPU", "max"),
    Column("sm_clock_mhz", "MHz", "clock of the multiprocessors", "nvmlDeviceGetClockInfo, SM"),
    Column("sm_clock_max_mhz", "MHz", "highest clock of the multiprocessors", "nvmlDeviceGetMaxClockInfo, SM", "last"),
    Column("memory_clock_mhz", "MHz", "clock of the memory", "nvmlDeviceGetClockInfo, MEM"),
    # a mean of bit masks means nothing, and all their bits together would make a moment's throttling a long one
    Column("throttle_reasons", "bit mask", "why the clocks are not higher: 1 idle, 2 clocks that somebody set, 4 power "
           "limit, 8 hardware slowdown, 16 clocks of other GPUs, 32 and 64 temperature, 128 power brake, 256 display",
           "nvmlDeviceGetCurrentClocksEventReasons", "last"),
    Column("pcie_rx_mb_s", "MB/s", "received over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, RX_BYTES"),
    Column("pcie_tx_mb_s", "MB/s", "sent over PCIe, in a window of 20 ms", "nvmlDeviceGetPcieThroughput, TX_BYTES"),
    Column("nvlink_rx_mb_s", "MB/s", "received over all NVLinks since the row before; empty without NVLink",
           "nvmlDeviceGetFieldValues, NVLINK_THROUGHPUT_DATA_RX"),
    Column("nvlink_tx_mb_s", "MB/s", "sent over all NVLinks since the row before; empty without NVLink",
           "nvmlDeviceGetFieldValues, NVLINK_THROUGHPUT_DATA_TX"),
)  # fmt: skip

_ALL_LINKS = 0xFFFFFFFF  # instead of the number of a link
_NVLINK_FIELDS = tuple(
    (field, _ALL_LINKS)
    for field in (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX)
)


class GpuReader:
    """Reads the figures of one GPU; to be made in the process that reads, as NVML does not survive a fork."""

    def __init__(self, uuid: str) -> None:
        """Open the library, until `close`; `uuid` is that of a GPU or of an instance."""
        self._uuid = uuid
        self._is_open = open_nvml()
        self._device = _find_device(uuid)
        self._energy = EnergyCounter()
        self._links = _LinkRates()

    def read(self, pids: Collection[int], now: float) -> list[float | None]:
        """Return the figures in the order of `GPU_COLUMNS`, None for what cannot be read now.

        Args:
            pids: the processes whose memory counts as the trial's.
            now: seconds from any origin.
        """
        cells: dict[str, float | None] = dict.fromkeys(column.name for column in GPU_COLUMNS)
        if self._is_open and self._device is None:
            self._device = _find_device(self._uuid)
        figures = _read_figures(self._device) if self._device else {}
        if not figures:  # it is lost, and its handle with it: should it come back, it has another
            self._device = None
        if self._device is not None:
            cells |= figures
            cells["process_memory_mb"] = _process_memory(self._device.own, pids)
            if not self._device.is_instance:
                counter = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._device.own)
                cells["energy_j"] = self._energy.add(counter, cells["power_w"], now)
                cells["nvlink_rx_mb_s"], cells["nvlink_tx_mb_s"] = self._links.read(self._device.own, now)
        return list(cells.values())

    def close(self) -> None:
        """Let go of the library; all cells are empty from now on."""
        if self._is_open:
            close_nvml()
        self._is_open, self._device = False, None


@dataclass(frozen=True)
class _Device:
    own: Any  # NVML's handle of the GPU or the instance
    chip: Any  # that of the GPU
    is_instance: bool


def _find_device(uuid: str) -> _Device | None:
    own = ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    is_instance = uuid.startswith(INSTANCE)
    chip = ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, own) if own and is_instance else own
    return _Device(own, chip, is_instance) if own and chip else None


class EnergyCounter:
    """Adds up what an energy counter gains; where it falls, what the power comes to since it was read last."""

    def __init__(self) -> None:
        self._joules = 0.0
        self._counted: tuple[float, float] | None = None  # when the counter was read last, and what it was, mJ
        self._powered: tuple[float, float] | None = None  # when the power was read last, and what it was, W
        self._bridge_j = 0.0  # what the power came to since the counter was read

    def add(self, counter_mj: float | None, power_w: float | None, now: float) -> float | None:
        """Return the energy in J since the first reading of the counter; None where there is none now.

        Args:
            counter_mj: the counter; one that was not read for a while tells afterwards what it gained meanwhile.
            power_w: the power, of which the integral over time (trapezoid rule) stands in for a counter that fell.
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
    """Makes rates of the counters of all NVLinks together."""

    def __init__(self) -> None:
        self._before: tuple[float, list[float]] | None = None

    def read(self, handle: Any, now: float) -> tuple[float | None, float | None]:
        """Return what was received and sent since the row before, MB/s."""
        if self._before and now - self._before[0] < SHORTEST_RATE_SECONDS:
            return None, None
        counters = ask(_link_counters, handle)
        before, self._before = self._before, None if counters is None else (now, counters)
        if before is None or counters is None:
            return None, None
        rates = [(after - then) / 1024 / (now - before[0]) for after, then in zip(counters, before[1], strict=True)]
        received, sent = (rate if rate >= 0 else None for rate in rates)  # a counter that fell began anew
        return received, sent


def _link_counters(handle: Any) -> list[float]:
    """Return what was received and sent over all NVLinks, KB."""
    values = pynvml.nvmlDeviceGetFieldValues(handle, _NVLINK_FIELDS)
    for value in values:
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(value.nvmlReturn)
    return [value.value.ullVal for value in values]


def _process_memory(handle: Any, pids: Collection[int]) -> float | None:
    processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    used = [p.usedGpuMemory for p in processes or () if p.pid in pids and p.usedGpuMemory is not None]
    return sum(used) / 2**20 if used else None


def _read_figures(device: _Device) -> dict[str, float | None]:
    """Return what could be read, by column; nothing of a GPU that is lost."""
    cells: dict[str, float | None] = {}
    for reading in _READINGS:
        if device.is_instance and reading.tells == "together":
            continue
        try:
            figures = reading.read(device.own if reading.tells == "own" else device.chip)
        except pynvml.NVMLError_GpuIsLost:
            return {}
        except pynvml.NVMLError:
            continue
        cells.update(zip(reading.names, figures, strict=True))
    return cells


@dataclass(frozen=True)
class _Reading:
    names: tuple[str, ...]
    read: Callable[[Any], tuple[float, ...]]
    # of an instance: of itself; of its GPU, which says the same of each; or of all instances, together only
    tells: Literal["own", "chip", "together"]


def _utilization(handle: Any) -> tuple[float, ...]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _temperature(handle: Any) -> tuple[float, ...]:
    celsius = first_offered((
        lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
        lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    ))  # fmt: skip
    return (celsius,)


def _throttle_reasons(handle: Any) -> tuple[float, ...]:
    mask = first_offered((
        lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    ))  # fmt: skip
    return (mask,)


def _pcie(counter: int) -> Callable[[Any], tuple[float, ...]]:
    return lambda handle: (pynvml.nvmlDeviceGetPcieThroughput(handle, counter) / 1024,)


_READINGS = (
    _Reading(("utilization_percent", "memory_utilization_percent"), _utilization, "together"),
    _Reading(("memory_used_mb", "memory_total_mb"), read_memory, "own"),
    _Reading(("power_w",), lambda gpu: (pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,), "together"),
    _Reading(("power_limit_w",), lambda gpu: (pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,), "together"),
    _Reading(("temperature_c",), _temperature, "chip"),
    _Reading(("sm_clock_mhz",), lambda gpu: (pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),), "chip"),
    _Reading(("sm_clock_max_mhz",), lambda gpu: (pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),), "chip"),
    _Reading(("memory_clock_mhz",), lambda gpu: (pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),), "chip"),
    _Reading(("throttle_reasons",), _throttle_reasons, "chip"),
    _Reading(("pcie_rx_mb_s",), _pcie(pynvml.NVML_PCIE_UTIL_RX_BYTES), "together"),
    _Reading(("pcie_tx_mb_s",), _pcie(pynvml.NVML_PCIE_UTIL_TX_BYTES), "together"),
)
