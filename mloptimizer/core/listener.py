"""What a search publishes while it runs, and to whom.

The loop publishes and knows no listener: those are the recorder, the display, `running.json`, the watch over shared
GPUs, and others to come.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord, HardwareSample, MicroBatching
from mloptimizer.core.nouns import Outcome, Phase, Slot, TrialPlan, TrialResult


@dataclass(frozen=True)
class SearchBegan:
    """What is searched, and how; nothing runs yet."""

    study: str
    dataset: str
    seed: int
    objective: str
    engine: str
    continued: bool
    notes: tuple[str, ...] = ()  # what changes in a continued study, and what does not


@dataclass(frozen=True)
class Progress:
    """Where a phase stands."""

    phase: Phase
    total: int
    ended: Mapping[Outcome, int]
    running: int
    best: tuple[int, float] | None  # number and objective
    seconds_left: float | None  # estimated; None before the first trial has ended
    paused: bool = False
    doing: Mapping[int, str] = field(default_factory=dict)  # by trial: its part, a word of the hardware log; or empty

    @property
    def done(self) -> int:
        return sum(self.ended.values())


class Listener:
    """Is told what happens in a search, in the order in which it happens: one method per event, of which a listener
    overrides those that concern it. A listener never raises for a fault of its own."""

    def search_began(self, began: SearchBegan) -> None:
        """The request was checked."""

    def slots_given(self, slots: Sequence[Slot]) -> None:
        """Trials run on these slots from now on; those of a cluster come and go."""

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        """An attempt of a trial begins."""

    def micro_batches_chosen(self, plan: TrialPlan, chosen: MicroBatching) -> None:
        """The trial told how it divides a step."""

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        """The trial has made an epoch."""

    def hardware_sampled(self, plan: TrialPlan, sample: HardwareSample) -> None:
        """A row of the trial's hardware log."""

    def decided(self, decision: Decision) -> None:
        """The driver or a trial made an automatic choice."""

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        """An attempt ended and the trial goes on later: why, and with what; empty where the search itself ends."""

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        """A trial has ended; one that was refused when it was proposed was never started."""

    def turn_ended(self) -> None:
        """All that had happened at this moment was published."""

    def progress(self, progress: Progress) -> None:
        """Where the phase stands."""

    def notice(self, line: str) -> None:
        """Something that concerns the whole search: it pauses, goes on, or ends early."""

    def search_ended(self) -> None:
        """Nothing runs any more, and nothing will."""


class Listeners(Listener):
    """Publishes every event to several listeners, in their order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners


def _publish(event: str) -> Callable[..., None]:
    def publish(self: Listeners, *what: Any) -> None:
        for listener in self._listeners:
            getattr(listener, event)(*what)

    return publish


for _event in [name for name in vars(Listener) if not name.startswith("_")]:
    setattr(Listeners, _event, _publish(_event))
