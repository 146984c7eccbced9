"""Reports this machine's processors and memory, and reads what they, the disks and the trial's processes do.

A value that the system does not report is None; nothing here raises. One MB is 2**20 bytes.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psutil

from mloptimizer.hardware.columns import SHORTEST_RATE_SECONDS, Column
from mloptimizer.hardware.read.rapl import PackageEnergy

MB = 2**20
TREE_SECONDS = 10.0  # between two searches for child processes: each reads every process of the machine, 15 us apiece
FREQUENCY_SECONDS = 10.0  # between two readings of the cores' frequencies: some systems measure each, for milliseconds
CoreTimes = tuple[float, float]
"""A logical core's busy time and total time, s."""
_LOOPBACK = re.compile(r"lo\d*|Loopback.*")

MACHINE_COLUMNS = (
    Column("cpu_percent", "%", "busy share of all logical cores since the previous row", "psutil.cpu_times"),
    Column("process_cpu_percent", "% of a core", "processor time of the trial's process and its descendants since the "
           "previous row; a new child is found within 10 s", "psutil.Process.cpu_times"),
    Column("cpu_mhz", "MHz", "mean clock of the cores; read every 10 s", "psutil.cpu_freq"),
    Column("load_1min", "processes", "running or waiting to run, mean over a minute", "psutil.getloadavg"),
    Column("ram_used_mb", "MB", "main memory in use: total less available", "psutil.virtual_memory", "max"),
    Column("ram_total_mb", "MB", "main memory of the machine", "psutil.virtual_memory", "last"),
    Column("page_cache_mb", "MB", "main memory in which the kernel caches files, freed on demand; Linux",
           "psutil.virtual_memory, cached"),
    Column("process_rss_mb", "MB", "resident memory of the trial's process and its descendants; shared pages count for "
           "each", "psutil.Process.memory_info", "max"),
    *(Column(name, "MB/s", f"{what}, by all processes, since the previous row", f"psutil.{counters}")
      for name, what, counters in (
          ("disk_read_mb_s", "read from all disks", "disk_io_counters"),
          ("disk_write_mb_s", "written to all disks", "disk_io_counters"),
          ("network_rx_mb_s", "received over all network interfaces but loopback", "net_io_counters"),
          ("network_tx_mb_s", "sent over all network interfaces but loopback", "net_io_counters"))),
    Column("cpu_energy_j", "J", "energy of the processors since the log began; empty where it cannot be read, as is "
           "usual without root", "/sys/class/powercap/intel-rapl:N/energy_uj", "last"),
    Column("machine_cores", "cores", "logical cores of the machine, the whole of cpu_percent", "psutil.cpu_times",
           "last"),
)  # fmt: skip

CORE_COLUMN = Column("percent", "%", "busy share of a logical core since the previous row",
                     "psutil.cpu_times(percpu=True)")  # fmt: skip


def machine_columns(cpu_ids: Iterable[int]) -> dict[str, Column]:
    """Return the machine's columns in order, with one for each of these logical cores, by name."""
    named = {column.name: column for column in MACHINE_COLUMNS}
    return {"cpu_percent": named["cpu_percent"], **{f"core{cpu}_percent": CORE_COLUMN for cpu in cpu_ids}, **named}


def list_cpus() -> tuple[int, ...]:
    """Return the logical cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def total_memory_mb() -> int:
    """Return the main memory of the machine in MB."""
    return psutil.virtual_memory().total // MB


def available_memory_mb() -> int:
    """Return the main memory in MB that new processes can use without swapping."""
    return psutil.virtual_memory().available // MB


class MachineReader:
    """Reads the machine, and one process with its descendants."""

    def __init__(self, pid: int, now: float, cpu_ids: Sequence[int] = ()) -> None:
        """Start counting; `now` is in seconds from any origin, `cpu_ids` are the logical cores with columns."""
        self._tree = _ProcessTree(pid, now)
        self._names = list(machine_columns(cpu_ids))
        self._energy = PackageEnergy()
        self._next_frequency = now
        self._frequency_mhz: float | None = None
        self._then, self._before = now, self._counters()

    @property
    def pids(self) -> frozenset[int]:
        """The process and its descendants, as of the last search for them."""
        return self._tree.pids

    def read(self, now: float) -> list[float | None]:
        """Return the values in the order of `machine_columns`.

        Values "since the previous row" are None where that row is less than 0.05 s old.
        """
        self._tree.refresh(now)
        if now >= self._next_frequency:
            self._next_frequency, self._frequency_mhz = now + FREQUENCY_SECONDS, _frequency_mhz()
        memory = psutil.virtual_memory()
        cells = {
            **self._gains(now),
            "cpu_mhz": self._frequency_mhz,
            "load_1min": psutil.getloadavg()[0],
            "ram_used_mb": (memory.total - memory.available) / MB,
            "ram_total_mb": memory.total / MB,
            "page_cache_mb": memory.cached / MB if hasattr(memory, "cached") else None,
            "process_rss_mb": self._tree.total(lambda process: process.memory_info().rss / MB),
            "cpu_energy_j": self._energy.read(),
            "machine_cores": float(len(self._before[1])),
        }
        return [cells.get(name) for name in self._names]

    def _gains(self, now: float) -> dict[str, float | None]:
        """Return the gains since the previous row, by column."""
        seconds = now - self._then
        if seconds < SHORTEST_RATE_SECONDS:
            return {}
        (counters, cores), self._before, self._then = self._before, self._counters(), now
        cells: dict[str, float | None] = {}
        for name, after in self._before[0].items():
            before = counters[name]
            cells[name] = None if before is None or after is None else max(0.0, after - before) / seconds
        cells["cpu_percent"] = busy_percent(list(cores.values()), list(self._before[1].values()))
        for cpu in cores.keys() & self._before[1].keys():
            cells[f"core{cpu}_percent"] = busy_percent([cores[cpu]], [self._before[1][cpu]])
        return cells

    def _counters(self) -> tuple[dict[str, float | None], dict[int, CoreTimes]]:
        """Return counters by the column that shows their gain per second, and times by logical core."""
        # user, system, and both of ended children, in hundredths of a second
        process = self._tree.total(lambda process: 100 * sum(process.cpu_times()[:4]))
        return {"process_cpu_percent": process, **_disk_counters(), **_network_counters()}, core_times()


def core_times() -> dict[int, CoreTimes]:
    """Return the times of every logical core of the machine."""
    cores = {}
    for cpu, times in enumerate(psutil.cpu_times(percpu=True)):
        # Linux counts guests' time as users' time too
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        cores[cpu] = (total - times.idle - getattr(times, "iowait", 0.0), total)
    return cores


def busy_percent(before: Sequence[CoreTimes], after: Sequence[CoreTimes]) -> float | None:
    """Return the busy share of the cores' time between two readings, %; None if no time has passed."""
    busy = sum(times[0] for times in after) - sum(times[0] for times in before)
    total = sum(times[1] for times in after) - sum(times[1] for times in before)
    return 100 * min(max(busy / total, 0.0), 1.0) if total > 0 else None


def _disk_counters() -> dict[str, float | None]:
    disks = _unless_hidden(psutil.disk_io_counters)
    read, written = (disks.read_bytes / MB, disks.write_bytes / MB) if disks else (None, None)
    return {"disk_read_mb_s": read, "disk_write_mb_s": written}


def _network_counters() -> dict[str, float | None]:
    links = _unless_hidden(lambda: psutil.net_io_counters(pernic=True))
    others = [counters for name, counters in (links or {}).items() if not _LOOPBACK.fullmatch(name)]
    return {
        "network_rx_mb_s": sum(counters.bytes_recv for counters in others) / MB if links else None,
        "network_tx_mb_s": sum(counters.bytes_sent for counters in others) / MB if links else None,
    }


def _frequency_mhz() -> float | None:
    frequency = _unless_hidden(psutil.cpu_freq)
    return frequency.current if frequency and frequency.current else None


def _unless_hidden(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (NotImplementedError, OSError, RuntimeError):  # virtual machines and containers hide things in many ways
        return None


class _ProcessTree:
    """A process and its descendants, rarely searched for; processor time of ended ones passes to their parents."""

    def __init__(self, pid: int, now: float) -> None:
        self._members: list[psutil.Process] = []
        self._root: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._root = psutil.Process(pid)
        self._next_search = now
        self.refresh(now)

    def refresh(self, now: float) -> None:
        if now < self._next_search or self._root is None:
            return
        self._next_search, self._members = now + TREE_SECONDS, []
        with contextlib.suppress(psutil.Error):
            self._members = [self._root, *self._root.children(recursive=True)]

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(member.pid for member in self._members)

    def total(self, read: Callable[[psutil.Process], float]) -> float | None:
        values = []
        for member in self._members:
            with contextlib.suppress(psutil.Error):  # it ended, or belongs to another user
                values.append(read(member))
        return sum(values) if values else None
