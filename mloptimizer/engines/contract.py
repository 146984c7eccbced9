"""What an engine is: it runs plans on slots and returns events."""

from collections.abc import Sequence
from typing import Protocol

from mloptimizer.core.events import Event
from mloptimizer.core.nouns import Slot, TrialPlan


class Engine(Protocol):
    """Runs one trial at a time on each of its slots.

    Guarantees: every started trial yields exactly one `TrialResult`, as the last of its events, even when its worker
    dies. After `close` no worker is left and no more events arrive. Calls for unknown or ended trials do nothing.
    """

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which a trial can start: none is running there, and the last one's memory is free."""

    def releasing(self) -> bool:
        """Return whether the last `idle_slots` omitted a slot that no trial occupies: `wait` until it is free."""

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Start the trial on an idle slot; returns at once."""

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds for something to happen."""

    def stop_trial(self, number: int) -> None:
        """Ask the trial to end at its next step; its result still arrives."""

    def kill_trial(self, number: int) -> None:
        """Kill the trial's processes at once; its result still arrives, as a crash unless the trial was done.

        A trial without a process of its own is only asked to end.
        """

    def close(self) -> None:
        """End every worker, and all processes that it started, at once."""
