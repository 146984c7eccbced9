"""Decides when trials must stop because the main memory of the machine is nearly full.

Guarantees: a single running trial is never stopped; at most one is stopping at a time; while memory is tight, a new
trial starts only when nothing else runs, so a search always makes progress.
"""

from collections.abc import Callable, Sequence

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision


class MemoryWatch:
    """Follows the memory in use: tight above `memory_ceiling`, until it is below `memory_threshold` again."""

    def __init__(self, percent: Callable[[], float], settings: Settings) -> None:
        """Args: percent: measures the share of the main memory in use, %."""
        self._percent = percent
        self._threshold, self._ceiling = settings.memory_threshold, settings.memory_ceiling
        self._tight = False
        self._stopping: int | None = None

    def choose_stop(self, running: Sequence[int]) -> Decision | None:
        """Measure the memory; return the decision to stop the newest of the running trials, which is last, or None."""
        percent = self._percent()
        if percent < self._threshold:
            self._tight = False
        elif percent > self._ceiling:
            self._tight = True
        if percent <= self._ceiling or len(running) < 2 or self._stopping is not None:
            return None
        self._stopping = running[-1]
        reason = (
            f"{percent:.1f} % of the main memory is in use, memory_ceiling = {self._ceiling:g}; "
            f"the newest of {len(running)} trials stops"
        )
        return Decision(self._stopping, "main memory", "stop and queue again", reason)

    def allows_start(self, running: int) -> bool:
        """Return whether a trial may start beside this many running ones."""
        return not self._tight or running == 0

    def end(self, number: int) -> None:
        """Note the end of a trial: once the one that was stopped has ended, another may be stopped."""
        if number == self._stopping:
            self._stopping = None
