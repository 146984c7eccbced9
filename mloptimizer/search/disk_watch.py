"""Notices that the disk is running low before it is full, and when there is room again."""

from collections.abc import Callable
from pathlib import Path

_ROOM_MB, _MOST_ROOM_MB = 10.0, 1000.0  # required after a trial found the disk full: the first time, at most


class DiskWatch:
    """Follows the free space of the workspace's disk; while it is `low`, no trial starts."""

    def __init__(self, place: Path, free_mb: Callable[[], float], least_mb: float) -> None:
        self._place, self._free_mb, self._least_mb = place, free_mb, least_mb
        self._needed_mb = 0.0  # as a trial has found out
        self._times_full = 0
        self.low = False

    def note_full(self) -> None:
        """Note that a trial found the disk full: none starts until there is room, each time four times as much."""
        self._needed_mb = min(_ROOM_MB * 4**self._times_full, _MOST_ROOM_MB)
        self._times_full += 1

    def look(self) -> str:
        """Look at the disk; return a line for the person when it has become low or enough, otherwise nothing."""
        free, is_least = self._free_mb(), self._least_mb >= self._needed_mb
        was, self.low = self.low, free < max(self._least_mb, self._needed_mb)
        if not self.low:
            self._needed_mb = 0.0
        if self.low == was:
            return ""
        if self.low:
            why = f"min_free_disk_mb = {self._least_mb:g}" if is_least else "too few for a trial that had to write"
            return f"{self._place}: only {free:,.0f} MB are free ({why}). No trial starts until there is more."
        return f"{self._place}: {free:,.0f} MB are free again. The search continues."
