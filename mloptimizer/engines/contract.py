"""What an engine is: it runs plans on slots and hands back events."""

from collections.abc import Sequence
from typing import Protocol

from mloptimizer.core.events import Event
from mloptimizer.core.nouns import Slot, TrialPlan


class Engine(Protocol):
    """Runs one trial at a time on each of its slots.

    Promise: every started trial yields exactly one `TrialResult`, as the last of its events, even when its worker
    dies. After `close` no worker is left, and no further event comes.
    """

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which a trial can start: none runs there, and what the last one used is free again."""
        ...

    def releasing(self) -> bool:
        """Return whether the last `idle_slots` left a slot out on which no trial runs: `wait` until it is free."""
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
        """End the trial's processes at once, whatever they do; its result still comes, a crash unless it was done.

        Unknown and ended trials are ignored. Where a trial has no process of its own it is only asked to end.
        """
        ...

    def close(self) -> None:
        """End every worker, and all processes that it has started, at once."""
        ...
