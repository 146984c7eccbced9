"""Reads what this machine does at this moment: its GPUs, processors and main memory.

A figure that cannot be read is None, and nothing here raises. One MB is 2**20 bytes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS, GpuReader
from mloptimizer.hardware.read.machine import MB, busy_percent, core_times
from mloptimizer.hardware.read.nvml import Gpu, list_gpus

SHORTEST_SECONDS = 0.25  # between two readings of the processors' time: over less, the share that was busy is noise


@dataclass(frozen=True)
class GpuNow:
    """A GPU and its figures, by the names of the columns of hardware logs."""

    gpu: Gpu
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class MachineNow:
    """What this machine does."""

    gpus: tuple[GpuNow, ...]
    cpu_percent: float | None  # of all logical cores, since the reading before
    ram_used_mb: float
    ram_total_mb: float


class LiveMachine:
    """Reads this machine again and again; they are held until `close`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Find the GPUs that this process may use, and begin to count the processors' time."""
        self._clock = clock
        self._gpus = [(gpu, GpuReader(gpu.uuid)) for gpu in list_gpus()]
        self._then, self._times = clock(), list(core_times().values())
        self._cpu_percent: float | None = None

    def read(self) -> MachineNow:
        """Return the figures of now; the processors' share is that of the last 0.25 s or more."""
        now = self._clock()
        if now - self._then >= SHORTEST_SECONDS:
            times = list(core_times().values())
            self._cpu_percent = busy_percent(self._times, times)
            self._then, self._times = now, times
        memory = psutil.virtual_memory()
        names = [column.name for column in GPU_COLUMNS]
        gpus = tuple(  # of no trial's processes in particular
            GpuNow(gpu, dict(zip(names, reader.read((), now), strict=True))) for gpu, reader in self._gpus
        )
        return MachineNow(gpus, self._cpu_percent, (memory.total - memory.available) / MB, memory.total / MB)

    def close(self) -> None:
        """Let go of the GPUs."""
        for _, reader in self._gpus:
            reader.close()
        self._gpus = []
