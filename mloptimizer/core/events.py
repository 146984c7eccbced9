"""What a trial reports while it runs, and the signatures of the code that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mloptimizer.core.nouns import Slot, TrialPlan, TrialResult


@dataclass(frozen=True)
class EpochRecord:
    """The metrics of one epoch; `epoch` counts from 1."""

    number: int
    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    ended_utc: str = ""  # ISO 8601, by the worker's clock, as in the hardware log


@dataclass(frozen=True)
class Decision:
    """An automatic choice and its reason, for `debug_strategy.log`."""

    number: int | None  # of the trial; None: of the driver
    topic: str
    choice: str
    reason: str


@dataclass(frozen=True)
class HardwareSample:
    """One row of the hardware log of a trial."""

    number: int
    row: Mapping[str, float | str | None]


@dataclass(frozen=True)
class MicroBatching:
    """How a trial splits its steps; sent before the first one, so that it is known even if the worker dies."""

    number: int
    micro_batch: int  # images per replica and pass
    accumulation_steps: int  # passes of a step
    memory_mb: float = 0.0  # estimated peak memory of a replica; 0: unknown


@dataclass(frozen=True)
class SignOfLife:
    """The training is alive; sent at a step, about once a second."""

    number: int
    step: int  # completed so far


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt at a trial that was interrupted, or that another attempt followed."""

    attempt: int
    kind: str  # of its failure; or "suspended", "memory", "sharing"
    message: str
    epochs: int  # completed by the trial when it ended
    seconds: float


Event = EpochRecord | Decision | HardwareSample | MicroBatching | SignOfLife | TrialResult

Emit = Callable[[Event], None]
ShouldStop = Callable[[], bool]
RunTrial = Callable[[TrialPlan, Slot, Emit, ShouldStop], TrialResult]
"""Trains the plan's model on the slot, emits events meanwhile, and returns the result; it never raises."""
