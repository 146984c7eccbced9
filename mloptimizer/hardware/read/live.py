"""Reads what this machine is doing now: its GPUs, processors and main memory.

A value that cannot be read is None, and nothing here raises. One MB is 2**20 bytes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS, GpuReader
from mloptimizer.hardware.read.machine import MB, busy_percent, core_times
from mloptimizer.hardware.read.nvml import Gpu, list_gpus

SHORTEST_SECONDS = 0.25  # between two readings of the processors' time: over less, the busy share is noise


@dataclass(frozen=True)
class GpuNow:
    """A GPU and its values, by the names of the hardware log's columns."""

    gpu: Gpu
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class MachineNow:
    """What this machine is doing."""

    gpus: tuple[GpuNow, ...]
    cpu_percent: float | None  # of all logical cores, since the previous reading
    ram_used_mb: float
    ram_total_mb: float


class LiveMachine:
    """Reads this machine repeatedly; holds its GPUs until `close`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Find the GPUs that this process may use, and start counting processor time."""
        self._clock = clock
        self._gpus = [(gpu, GpuReader(gpu.uuid)) for gpu in list_gpus()]
        self._then, self._times = clock(), list(core_times().values())
        self._cpu_percent: float | None = None

    def read(self) -> MachineNow:
        """Return the present values; the processors' busy share covers the last 0.25 s or more."""
        now = self._clock()
        if now - self._then >= SHORTEST_SECONDS:
            times = list(core_times().values())
            self._cpu_percent = busy_percent(self._times, times)
            self._then, self._times = now, times
        memory = psutil.virtual_memory()
        names = [column.name for column in GPU_COLUMNS]
        read = [(gpu, reader.read((), now)) for gpu, reader in self._gpus]  # for no trial's processes in particular
        gpus = tuple(GpuNow(gpu, dict(zip(names, values, strict=True))) for gpu, values in read)
        return MachineNow(gpus, self._cpu_percent, (memory.total - memory.available) / MB, memory.total / MB)

    def close(self) -> None:
        """Release the GPUs."""
        for _, reader in self._gpus:
            reader.close()
        self._gpus = []
