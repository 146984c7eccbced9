"""What the loop knows of a running trial, and how its end counts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from mloptimizer.core.events import MicroBatching
from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed


class Told(Enum):
    """Why a running trial was told to end, where that is not a failure."""

    PRUNED = auto()
    MAKE_WAY = auto()  # for the others, for want of main memory
    LEAVE_GPU = auto()  # to the others on it: sharing it does not pay
    SUSPEND = auto()


@dataclass
class Running:
    """A running attempt of a trial."""

    plan: TrialPlan
    slot: Slot
    epochs: int  # made so far
    told: Told | Failure | None = None
    told_at: float = math.inf
    micro_batching: MicroBatching | None = None  # the last that this attempt told
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
    Told.SUSPEND: ("suspended", "told to stop"),
    Told.MAKE_WAY: ("memory", "gave way to others"),
    Told.LEAVE_GPU: ("sharing", "left its GPU to others"),
}


def describe_end(result: TrialResult, told: Told | Failure | None) -> tuple[str, str]:
    """Return why an attempt ended, in a word and in a line."""
    if isinstance(told, Told) and told in _ENDS:
        return _ENDS[told]
    return (str(result.failure.kind), result.failure.message) if result.failure else (str(result.outcome), "")


def check_result(result: TrialResult, objective: str, pruned: bool) -> TrialResult:
    """Return the result as it counts: a pruned trial is pruned even if it was done before it heard of it, and a value
    that is not finite is a failure."""
    if pruned:
        return TrialResult(result.number, Outcome.PRUNED, None, result.seconds, result.metrics, result.timings)
    if result.outcome is Outcome.COMPLETED and (result.value is None or not math.isfinite(result.value)):
        return failed(result.number, FailureKind.NON_FINITE, f"{objective} = {result.value}", result.seconds)
    return result
