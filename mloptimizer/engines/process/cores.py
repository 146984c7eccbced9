"""Decides on which cores each worker of this machine runs: its own, and those of idle slots."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from mloptimizer.core.nouns import Slot


def pin(process: int | None, cpus: Sequence[int]) -> None:
    """Restrict all threads of the process to these cores, if any are given; a process that has ended is ignored.

    Only Linux can do this to another process; elsewhere nothing happens.
    """
    if process and cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cpus)


def lend_cores(busy: Sequence[Slot], idle: Sequence[Slot]) -> list[tuple[int, ...]]:
    """Return for each busy slot its cores and an even share of those of the idle slots."""
    spare = sorted({cpu for slot in idle for cpu in slot.cpu_ids} - {cpu for slot in busy for cpu in slot.cpu_ids})
    return [(*slot.cpu_ids, *spare[index :: len(busy)]) for index, slot in enumerate(busy)]
