"""Notices that the disk is running low before it is full, and when there is room again."""

from collections.abc import Callable
from pathlib import Path


class DiskWatch:
    """Follows the free space of the workspace's disk; below the least, no trial starts."""

    def __init__(self, place: Path, free_mb: Callable[[], float], least_mb: float) -> None:
        self._place = place
        self._free_mb = free_mb
        self._least_mb = least_mb
        self.low = False

    def look(self) -> str:
        """Look at the disk; return a line for the person when it has become low or enough, otherwise nothing."""
        free = self._free_mb()
        was, self.low = self.low, free < self._least_mb
        if self.low == was:
            return ""
        if self.low:
            least = f"min_free_disk_mb = {self._least_mb:g}"
            return f"{self._place}: only {free:,.0f} MB are free ({least}). No trial starts until there is more."
        return f"{self._place}: {free:,.0f} MB are free again. The search goes on."
