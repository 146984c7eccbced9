"""Adds up the energy that one trial used, row by row of its hardware log.

GPUs: what the energy counter gained; where it gave no reading, and without a counter, the power integrated by the
trapezoid rule, also across rows without a reading. Trials that share a GPU count equal shares of it. CPU: an estimate.
The counter covers the machine's packages (RAPL), and a trial's share of it is its processes' share of the processor
time that all processes of the machine used; so the shares of the trials on one machine never exceed its energy. Memory,
disks, fans and power supply losses are not included.
"""

import contextlib
import functools
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mloptimizer.hardware.columns import Row, numeric_cell
from mloptimizer.hardware.read.reader import HardwareReader

_LEAST_SECONDS = 1.0  # over which an energy counter gives the power: it moves about ten times a second
EnergySource = Literal["counter", "power", "counter and power"]


@dataclass
class _Gpu:
    """One GPU's energy, J; `pending` was integrated since the counter's last reading, whose next may replace it."""

    counted: float = 0.0
    integrated: float = 0.0
    pending: float = 0.0
    counter: float | None = None  # its last reading in this attempt
    power: tuple[float, float] | None = None  # time and value of the last reading
    known: bool = False
    has_counter: bool = False

    def begin(self) -> None:
        """Start another attempt, whose counter restarts at 0."""
        self.integrated, self.pending = self.integrated + self.pending, 0.0
        self.counter = self.power = None

    def add(self, now: float, counter: float | None, power: float | None, first: bool, sharers: float) -> None:
        if power is not None:
            then, before_w = self.power or ((0.0, power) if first else (now, power))
            self.pending += (now - then) * (power + before_w) / 2 / sharers
            self.power = (now, power)
        if counter is None:
            self.known = self.known or power is not None
            return
        # A thinned log begins with a row that stands for some time: the counter was 0 when the log began.
        before = 0.0 if first and now > 0 else self.counter
        if before is not None and counter >= before:
            self.counted += (counter - before) / sharers
        else:
            self.integrated += self.pending
        self.pending, self.counter = 0.0, counter
        self.known = self.has_counter = True

    @property
    def joules(self) -> float:
        return self.counted + self.integrated + self.pending


@dataclass
class EnergyMeter:
    """The energy of one trial so far."""

    cores: int  # logical cores of the machine, for rows that lack them
    _gpus: dict[str, _Gpu] = field(default_factory=dict)
    cpu_joules: float | None = None  # its estimated share of the processors' energy; None if that cannot be read
    _packages: float | None = None  # their counter at the last row that had the trial's share
    _seconds: float | None = None  # of the previous row

    def add(self, row: Row) -> None:
        """Take a row; one with an earlier time than the previous row starts another attempt."""
        now = numeric_cell(row, "seconds")
        if now is None:
            return
        first = self._seconds is None or now < self._seconds
        if first:
            self._packages = 0.0 if now > 0 else None
            for gpu in self._gpus.values():
                gpu.begin()
        self._seconds = now
        sharers = max(numeric_cell(row, "trials_on_gpu") or 1.0, 1.0)
        for name in _metered_gpus(tuple(row)):
            gpu = self._gpus.setdefault(name, _Gpu())
            gpu.add(now, numeric_cell(row, f"{name}_energy_j"), numeric_cell(row, f"{name}_power_w"), first, sharers)
        packages = numeric_cell(row, "cpu_energy_j")
        if packages is None:
            return
        mine, busy = numeric_cell(row, "process_cpu_percent"), numeric_cell(row, "cpu_percent")
        if self._packages is None or packages < self._packages:
            self._packages = packages
        elif mine is not None and busy:  # otherwise the gain waits for a row that has the share
            cores = numeric_cell(row, "machine_cores") or self.cores
            share = min(mine / (busy * cores), 1.0)
            self.cpu_joules = (self.cpu_joules or 0.0) + share * (packages - self._packages)
            self._packages = packages

    @property
    def gpu_joules(self) -> float | None:
        """What its GPUs used, J; None if none reported it."""
        known = [gpu.joules for gpu in self._gpus.values() if gpu.known]
        return sum(known) if known else None

    @property
    def gpu_source(self) -> EnergySource | None:
        """The source of the GPUs' energy; None if there is none."""
        known = [gpu for gpu in self._gpus.values() if gpu.known]
        counted = any(gpu.has_counter for gpu in known)
        integrated = any(gpu.integrated + gpu.pending or not gpu.has_counter for gpu in known)
        if counted and integrated:
            return "counter and power"
        return ("power" if integrated else "counter") if known else None

    @property
    def joules(self) -> float:
        """Its whole energy as far as it is known, J."""
        return (self.gpu_joules or 0.0) + (self.cpu_joules or 0.0)


@functools.lru_cache
def _metered_gpus(columns: tuple[str, ...]) -> tuple[str, ...]:
    found = (re.fullmatch(r"(gpu\d+)_(?:power_w|energy_j)", column) for column in columns)
    return tuple(dict.fromkeys(match[1] for match in found if match))


def can_measure_energy(gpu_ids: Sequence[str]) -> bool:
    """Return whether this machine reports energy or power, of its processors or of one of the GPUs (NVML UUIDs)."""
    with contextlib.closing(HardwareReader(gpu_ids, os.getpid())) as reader:
        row = reader.read()
    return any(row[name] is not None for name in row if name.endswith(("_power_w", "_energy_j")))


def gpu_watts(rows: Sequence[Row]) -> float | None:
    """Return the mean power of all GPUs of the rows together: by their energy counters, or else by power readings."""
    gpus = _metered_gpus(tuple(rows[-1])) if rows else ()
    watts = [_gain_per_second(rows, f"{gpu}_energy_j") or _mean(rows, f"{gpu}_power_w") for gpu in gpus]
    known = [value for value in watts if value is not None]
    return sum(known) if known and len(known) == len(gpus) else None


def cpu_watts(rows: Sequence[Row]) -> float | None:
    """Return the mean power of the machine's CPU packages."""
    return _gain_per_second(rows, "cpu_energy_j")


def _gain_per_second(rows: Sequence[Row], column: str) -> float | None:
    pairs = [(numeric_cell(row, "seconds"), numeric_cell(row, column)) for row in rows]
    known = [(second, joules) for second, joules in pairs if second is not None and joules is not None]
    if not known:
        return None
    seconds, joules = (last - first for first, last in zip(known[0], known[-1], strict=True))
    return joules / seconds if seconds >= _LEAST_SECONDS and joules > 0 else None


def _mean(rows: Sequence[Row], column: str) -> float | None:
    values = [value for row in rows if (value := numeric_cell(row, column)) is not None]
    return statistics.fmean(values) if values else None
