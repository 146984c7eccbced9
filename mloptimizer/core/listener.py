"""The events that a search publishes while it runs, and the interface of those who listen.

The search's loop does not know its listeners: the recorder, the display, `running.json`, the watch over shared GPUs.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord, HardwareSample, MicroBatching
from mloptimizer.core.nouns import Outcome, Phase, Slot, TrialPlan, TrialResult


@dataclass(frozen=True)
class SearchBegan:
    """The study and how it will be searched; nothing runs yet."""

    study: str
    dataset: str
    seed: int
    objective: str
    engine: str
    continued: bool
    notes: tuple[str, ...] = ()  # what changes in a continued study and what stays


@dataclass(frozen=True)
class Progress:
    """The progress of a phase."""

    phase: Phase
    total: int
    ended: Mapping[Outcome, int]
    running: int
    best: tuple[int, float] | None  # number and objective
    seconds_left: float | None  # estimate; None before the first trial ends
    paused: bool = False
    doing: Mapping[int, str] = field(default_factory=dict)  # by trial: its part, as in the hardware log; or empty

    @property
    def done(self) -> int:
        return sum(self.ended.values())


class Listener:
    """Receives the events of a search in order. A subclass overrides the methods that concern it, and never raises for
    a fault of its own."""

    def search_began(self, began: SearchBegan) -> None:
        """The request has been checked."""

    def slots_given(self, slots: Sequence[Slot]) -> None:
        """Trials run on these slots from now on; a cluster's slots come and go."""

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        """An attempt of a trial begins."""

    def micro_batches_chosen(self, plan: TrialPlan, chosen: MicroBatching) -> None:
        """The trial has chosen how to split its steps."""

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        """The trial has completed an epoch."""

    def hardware_sampled(self, plan: TrialPlan, sample: HardwareSample) -> None:
        """A row of the trial's hardware log."""

    def decided(self, decision: Decision) -> None:
        """The driver or a trial made an automatic choice."""

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        """An attempt ended and the trial will continue; `reason` is empty if the search itself ends."""

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        """A trial has ended; one refused when it was proposed never started."""

    def turn_ended(self) -> None:
        """All events so far have been published."""

    def progress(self, progress: Progress) -> None:
        """The phase has progressed."""

    def notice(self, line: str) -> None:
        """A message about the whole search: it pauses, resumes, or ends early."""

    def search_ended(self) -> None:
        """Nothing runs any more."""


class Listeners(Listener):
    """Publishes every event to several listeners, in their order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        for event in vars(Listener):
            if not event.startswith("_"):
                setattr(self, event, functools.partial(self._publish, event))

    def _publish(self, event: str, *what: Any) -> None:
        for listener in self._listeners:
            getattr(listener, event)(*what)
