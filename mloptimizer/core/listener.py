"""What a search tells whoever shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mloptimizer.core.nouns import EpochRecord, Outcome, Phase, TrialPlan, TrialResult


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


class Observer(Protocol):
    """Is told what happens, to show it."""

    def progress(self, progress: Progress) -> None: ...

    def trial_started(self, plan: TrialPlan) -> None: ...

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None: ...

    def attempt_ended(self, plan: TrialPlan, reason: str) -> None:
        """An attempt ended and the trial will go on: why, and with what."""
        ...

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None: ...

    def notice(self, line: str) -> None:
        """Something that concerns the whole search: it pauses, goes on, or ends early."""
        ...
