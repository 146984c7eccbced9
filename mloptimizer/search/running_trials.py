"""What the loop knows of a running trial, and what its end means."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from mloptimizer.core.events import MicroBatching
from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed


class StopCause(Enum):
    """Why the loop asked a running trial to stop, where that is not a failure."""

    PRUNED = auto()
    MEMORY = auto()  # the main memory is nearly full
    GPU_SHARING = auto()  # sharing its GPU does not pay
    SUSPENDED = auto()


@dataclass
class Running:
    """A running attempt of a trial."""

    plan: TrialPlan
    slot: Slot
    epochs: int  # made so far
    stop_cause: StopCause | Failure | None = None
    stop_asked: float = math.inf  # when, by the run's clock
    micro_batching: MicroBatching | None = None  # the latest of this attempt
    part: str = ""  # what it was doing last, a word of the hardware log


def count_neighbours(mine: Running, running: Iterable[Running]) -> dict[str, int]:
    """Return how many of the running trials are on this trial's GPUs and cores now, itself included."""
    gpus, cores = frozenset(mine.slot.gpu_ids), frozenset(mine.slot.cpu_ids)
    others = [other.slot for other in running if other is not mine]
    neighbours = [frozenset(slot.cpu_ids) for slot in others if slot.host == mine.slot.host]
    return {
        "trials_on_gpu": 1 + sum(not gpus.isdisjoint(slot.gpu_ids) for slot in others),
        "trials_on_cores": 1 + sum(not (cores and their) or bool(cores & their) for their in neighbours),
    }


_ENDS = {
    StopCause.SUSPENDED: ("suspended", "asked to stop"),
    StopCause.MEMORY: ("memory", "stopped because the main memory was nearly full"),
    StopCause.GPU_SHARING: ("sharing", "stopped because sharing its GPU did not pay"),
}


def describe_end(result: TrialResult, cause: StopCause | Failure | None) -> tuple[str, str]:
    """Return why an attempt ended, in a word and in a line."""
    if isinstance(cause, StopCause) and cause in _ENDS:
        return _ENDS[cause]
    return (str(result.failure.kind), result.failure.message) if result.failure else (str(result.outcome), "")


def check_result(result: TrialResult, objective: str, pruned: bool) -> TrialResult:
    """Return the result that counts: a pruned trial is pruned even if it completed before it noticed, and a value that
    is not finite is a failure."""
    if pruned:
        return TrialResult(result.number, Outcome.PRUNED, None, result.seconds, result.metrics, result.timings)
    if result.outcome is Outcome.COMPLETED and (result.value is None or not math.isfinite(result.value)):
        return failed(result.number, FailureKind.NON_FINITE, f"{objective} = {result.value}", result.seconds)
    return result
