"""What an engine is: it runs plans on slots and hands back events."""

from collections.abc import Callable, Sequence
from typing import Protocol

from mloptimizer.records import Event, Slot, TrialPlan, TrialResult

Emit = Callable[[Event], None]
ShouldStop = Callable[[], bool]
RunTrial = Callable[[TrialPlan, Slot, Emit, ShouldStop], TrialResult]
"""Trains the plan's model on the slot, emits what happens meanwhile, and returns the result; it never raises."""


class Engine(Protocol):
    """Runs one trial at a time on each of its slots.

    Promise: every started trial yields exactly one `TrialResult`, as the last of its events, even when its worker
    dies. After `close` no worker is left, and no further event comes.
    """

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which no trial runs."""
        ...

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Start the trial on an idle slot; returns at once."""
        ...

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds for something to happen."""
        ...

    def stop_trial(self, number: int) -> None:
        """Ask the trial to end at its next step; its result still comes. Unknown and ended trials are ignored."""
        ...

    def kill_trial(self, number: int) -> None:
        """End the trial's worker at once, with all processes that it started; its result still comes."""
        ...

    def releasing(self) -> bool:
        """Whether a slot is not idle yet, though no trial runs on it."""
        ...

    def close(self) -> None:
        """End every worker at once."""
        ...
