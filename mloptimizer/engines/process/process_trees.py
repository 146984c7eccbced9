"""Keeps track of a worker's process and of all that it starts, so that every one of them can be ended.

Guarantees: a process that reuses the number of one that ended is never touched; killing works on processes that are
stopped, hang, or ignore signals; nothing here raises.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import psutil

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.001, 0.05  # between two checks


class ProcessTree:
    """A process and its descendants, and the group that it leads (see `lifeline.lead_group`).

    The group includes children whose parents have ended; the descendants include those that left the group.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descendants: set[psutil.Process] = set()  # as of the last `kill`
        self._root: psutil.Process | None = None  # None: it ended before this
        with contextlib.suppress(psutil.Error):
            self._root = psutil.Process(pid)

    def pids(self) -> set[int]:
        """Return the numbers of its known processes."""
        return {self._pid, *(process.pid for process in self._descendants)}

    def has_ended(self) -> bool:
        """Return whether the process itself is gone, even if nobody has asked for its exit code yet."""
        return self._root is None or _is_gone(self._root)

    def kill(self) -> None:
        """Kill all of it, without waiting."""
        with contextlib.suppress(psutil.Error):
            if self._root:
                self._descendants.update(self._root.children(recursive=True))
        if self._root and hasattr(os, "killpg") and not self._is_reused():
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)  # in one stroke: none of them can start another
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait until all its known processes are gone, at most `seconds`; return whether they are."""
        deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
        while not all(map(_is_gone, self._all())):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return True

    def _all(self) -> Iterator[psutil.Process]:
        if self._root:
            yield self._root
        yield from self._descendants

    def _is_reused(self) -> bool:
        """Return whether another process has the number now: the group of that number is then not ours."""
        try:
            return psutil.Process(self._pid) != self._root
        except psutil.Error:
            return False


def _is_gone(process: psutil.Process) -> bool:
    try:
        if not process.is_running():
            return True
        # Its first thread may be done while others still release their memory.
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
