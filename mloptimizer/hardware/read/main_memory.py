"""Watches the main memory: how full it is, and how many processes the kernel has killed because it ran out.

What the system does not report counts as nothing; nothing here raises.
"""

import contextlib
import re
from pathlib import Path

import psutil


def memory_percent() -> float:
    """Return the share of the main memory in use, %: what new processes cannot have without swapping."""
    return psutil.virtual_memory().percent


def count_oom_kills(root: Path = Path("/")) -> int:
    """Return a count that grows with every process that the kernel kills because memory ran out, before it dies.

    Linux counts such kills for the whole machine, including those in a control group that reached its limit. A
    container that hides the machine's count may still show its own group's.

    Args:
        root: folder that contains ``proc`` and ``sys``.
    """
    group = re.search(r"^0::/*(.*?)/*$", _read(root / "proc/self/cgroup"), re.MULTILINE)  # control groups version 2
    counters = (root / "proc/vmstat", root / "sys/fs/cgroup" / (group[1] if group else "") / "memory.events")
    found = (re.search(r"^oom_kill (\d+)$", _read(path), re.MULTILINE) for path in counters)
    return sum(int(count[1]) for count in found if count)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
