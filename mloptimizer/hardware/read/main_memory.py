"""Watches the main memory: how full it is, and whether the kernel has killed processes for want of it.

What the system does not tell counts as nothing; nothing here raises.
"""

from pathlib import Path

import psutil

_OF_THE_MACHINE = "proc/vmstat"
_GROUPS_OF_THIS_PROCESS = "proc/self/cgroup"  # a line `0::PATH` where there are control groups of version 2
_OF_GROUPS = "sys/fs/cgroup"


def memory_percent() -> float:
    """Return the share of the main memory that is in use, %: what new processes cannot have without swapping."""
    return psutil.virtual_memory().percent


def count_oom_kills(root: Path = Path("/")) -> int:
    """Return a figure that grows with every process that the kernel kills for want of memory.

    It grows before the process dies. Linux counts such kills for the whole machine, those within a control group that
    reached its limit among them; a container that hides the machine's figure may still tell its own group's.

    Args:
        root: folder in which ``proc`` and ``sys`` lie.
    """
    group = ""
    for line in _lines(root / _GROUPS_OF_THIS_PROCESS):
        if line.startswith("0::"):
            group = line.removeprefix("0::").strip("/")
    counts = (root / _OF_THE_MACHINE, root / _OF_GROUPS / group / "memory.events")
    return sum(_read_kills(path) for path in counts)


def _read_kills(path: Path) -> int:
    for line in _lines(path):
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
