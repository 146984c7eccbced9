"""Says which processors and memory this machine has, and reads what they, the disks and the trial's processes do.

A figure that the system does not tell is None; nothing here raises. One MB is 2**20 bytes.
"""

import os
from collections.abc import Callable, Mapping

import psutil

from mloptimizer.hardware.columns import Column

MB = 2**20
TREE_SECONDS = 10.0  # between two searches for child processes: each reads every process of the machine, 15 us apiece
SHORTEST_RATE_SECONDS = 0.05  # the kernel counts processor time in steps of 0.01 s: rates over less are noise

MACHINE_COLUMNS = (
    Column("cpu_percent", "%", "share of all logical cores that was busy since the row before", "psutil.cpu_times"),
    Column("process_cpu_percent", "% of a core", "processor time of the trial's process and its descendants since the "
           "row before; a new child is found within 10 s", "psutil.Process.cpu_times"),
    Column("load_1min", "processes", "running or waiting to run, mean of a minute", "psutil.getloadavg"),
    Column("ram_used_mb", "MB", "main memory in use: total less available", "psutil.virtual_memory"),
    Column("ram_total_mb", "MB", "main memory of the machine", "psutil.virtual_memory"),
    Column("process_rss_mb", "MB", "resident memory of the trial's process and its descendants; pages that they share "
           "count for each", "psutil.Process.memory_info"),
    Column("disk_read_mb_s", "MB/s", "read from all disks, by every process, since the row before",
           "psutil.disk_io_counters"),
    Column("disk_write_mb_s", "MB/s", "written to all disks, by every process, since the row before",
           "psutil.disk_io_counters"),
)  # fmt: skip


def list_cpus() -> tuple[int, ...]:
    """Return the logical cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def total_memory_mb() -> int:
    """Return the main memory of the machine in MB."""
    return psutil.virtual_memory().total // MB


def available_memory_mb() -> int:
    """Return the main memory in MB that new processes can have without swapping."""
    return psutil.virtual_memory().available // MB


class MachineReader:
    """Reads the figures of the machine and of one process with its descendants."""

    def __init__(self, pid: int, now: float) -> None:
        """Begin to count; `now` is in seconds from any origin."""
        self._tree = _ProcessTree(pid, now)
        self._then, self._before = now, self._counters()

    @property
    def pids(self) -> frozenset[int]:
        """The process and the descendants that were found last."""
        return self._tree.pids

    def read(self, now: float) -> list[float | None]:
        """Return the figures in the order of `MACHINE_COLUMNS`.

        Those that say "since the row before" are None where that is less than 0.05 s ago.
        """
        self._tree.refresh(now)
        gains = self._gains(now)
        memory = psutil.virtual_memory()
        busy, total, process = gains["busy"], gains["total"], gains["process"]
        return [
            100 * busy / total if busy is not None and total else None,
            100 * process if process is not None else None,
            psutil.getloadavg()[0],
            (memory.total - memory.available) / MB,
            memory.total / MB,
            self._tree.rss_mb(),
            gains["read_mb"],
            gains["write_mb"],
        ]

    def _gains(self, now: float) -> Mapping[str, float | None]:
        """Return what each counter gained per second since the row before."""
        seconds = now - self._then
        if seconds < SHORTEST_RATE_SECONDS:
            return dict.fromkeys(self._before)
        counters = self._counters()
        gains = {name: _gain(self._before[name], counters[name], seconds) for name in counters}
        self._then, self._before = now, counters
        return gains

    def _counters(self) -> Mapping[str, float | None]:
        times = psutil.cpu_times()
        # Linux counts the time of guests among that of users too
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        try:
            disks = psutil.disk_io_counters()
        except (NotImplementedError, OSError):  # a container that hides the disks
            disks = None
        return {
            "total": total,
            "busy": total - times.idle - getattr(times, "iowait", 0.0),
            "process": self._tree.cpu_seconds(),
            "read_mb": disks.read_bytes / MB if disks else None,
            "write_mb": disks.write_bytes / MB if disks else None,
        }


def _gain(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else max(0.0, after - before) / seconds


class _ProcessTree:
    """A process and its descendants, searched for seldom; the times of those that ended pass to their parents."""

    def __init__(self, pid: int, now: float) -> None:
        self._members: list[psutil.Process] = []
        self.pids: frozenset[int] = frozenset()
        try:
            self._root: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:
            self._root = None
        self._next_search = now
        self.refresh(now)

    def refresh(self, now: float) -> None:
        if now < self._next_search or self._root is None:
            return
        self._next_search = now + TREE_SECONDS
        try:
            self._members = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            self._members = []
        self.pids = frozenset(member.pid for member in self._members)

    def cpu_seconds(self) -> float | None:
        return self._sum(lambda member: sum(member.cpu_times()[:4]))  # user, system, and both of ended children

    def rss_mb(self) -> float | None:
        return self._sum(lambda member: member.memory_info().rss / MB)

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float | None:
        figures = []
        for member in self._members:
            try:
                figures.append(figure(member))
            except psutil.Error:  # it ended, or belongs to another person
                continue
        return sum(figures) if figures else None
