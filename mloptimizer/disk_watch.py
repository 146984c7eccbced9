"""Notices that the disk is running low before it is full, and when there is room again."""

from collections.abc import Callable
from pathlib import Path

_MORE_MB = 1.0  # at least so much more than was free when a trial found the disk full
_MUCH_MB = 1000.0


class DiskWatch:
    """Follows the free space of the workspace's disk; below the least, no trial starts."""

    def __init__(self, place: Path, free_mb: Callable[[], float], least_mb: float) -> None:
        self._place = place
        self._free_mb = free_mb
        self._least_mb = least_mb
        self._needed_mb = 0.0  # as a trial has found out
        self.low = False

    def note_full(self) -> None:
        """Demand twice what is free now, until there is that much: a trial has just found that this does not do.

        Where much is free, it is a quota or another disk that is full, and free space tells nothing.
        """
        free = self._free_mb()
        if free < _MUCH_MB:
            self._needed_mb = max(2 * free, free + _MORE_MB)

    def look(self) -> str:
        """Look at the disk; return a line for the person when it has become low or enough, otherwise nothing."""
        free = self._free_mb()
        was, self.low = self.low, free < max(self._least_mb, self._needed_mb)
        if not self.low:
            self._needed_mb = 0.0
        if self.low == was:
            return ""
        if self.low:
            is_least = self._least_mb >= self._needed_mb
            why = f"min_free_disk_mb = {self._least_mb:g}" if is_least else "too few for a trial that had to write"
            return f"{self._place}: only {free:,.0f} MB are free ({why}). No trial starts until there is more."
        return f"{self._place}: {free:,.0f} MB are free again. The search goes on."
