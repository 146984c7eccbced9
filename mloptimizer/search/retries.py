"""Decides by one table whether a trial whose attempt failed starts another attempt.

Guarantees: an attempt trains with the same parameters, seed and images per step as the first, and resumes from its last
checkpoint, so its result is the same. The number of attempts is limited: a retry that changes nothing is tried only a
few times without a new epoch, and micro-batches only get smaller.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mloptimizer.core.events import Decision, EndedAttempt, MicroBatching
from mloptimizer.core.nouns import Failure, FailureKind, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.search.running_trials import StopCause
from mloptimizer.training.memory.batch_plan import BatchPlan, fewer_at_once, plan_batch


@dataclass(frozen=True)
class Retry:
    """How a failure is retried: how often in a row without a new epoch, and what the next attempt changes."""

    times: int | None  # None: as long as the change is possible
    change: str


RETRIES: Mapping[FailureKind, Retry] = {
    FailureKind.OUT_OF_MEMORY: Retry(
        None, "half the micro-batch, down to min_micro_batch; if it shared its GPU, first the same one, alone"
    ),
    FailureKind.NON_FINITE: Retry(0, "none: its weights were restored nan_retries times already"),
    FailureKind.CRASH: Retry(2, "a new process"),
    FailureKind.LOST_WORKER: Retry(5, "another worker: it is not the trial's fault"),
    FailureKind.HUNG: Retry(1, "a new process"),
    FailureKind.TIME_LIMIT: Retry(0, "none: it would take as long again"),
    FailureKind.SPACE_ERROR: Retry(0, "none: the search space has to be fixed"),
    FailureKind.DATA_ERROR: Retry(1, "the images are read again"),
    FailureKind.DISK_FULL: Retry(3, "the search pauses until there is room"),
    FailureKind.INTERRUPTED: Retry(1, "a new process"),
    FailureKind.ERROR: Retry(0, "none: it would raise the same error again"),
}


@dataclass(frozen=True)
class NextAttempt:
    """The plan to start when a slot is free, and why."""

    plan: TrialPlan
    words: str  # for the person, after the trial's name
    decision: Decision


def with_last_micro_batching(result: TrialResult, chosen: MicroBatching | None) -> TrialResult:
    """Return the result with the attempt's last micro-batches where it states none, because its worker died."""
    if chosen is None or result.micro_batch:
        return result
    memory_mb = result.memory_mb or chosen.memory_mb
    steps = chosen.accumulation_steps
    return replace(result, micro_batch=chosen.micro_batch, accumulation_steps=steps, memory_mb=memory_mb)


def find_next_attempt(
    plan: TrialPlan, slot: Slot, result: TrialResult, ended: Sequence[EndedAttempt], shared: bool = False
) -> NextAttempt | TrialResult:
    """Return the next attempt, or the result if it is final.

    Args:
        ended: the trial's attempts so far, this one last.
        shared: whether it shared its GPU with another trial; the next attempt will not.
    """
    failure = result.failure
    if failure is None:
        return result
    if failure.kind is FailureKind.OUT_OF_MEMORY:
        if shared:
            reason = f"attempt {plan.attempt} ran out of memory beside another trial on its GPU: {failure.message}"
            return _again(plan, "out of memory beside another trial on its GPU; again alone", reason, ", alone")
        return _with_less_memory(plan, slot, result, failure) if plan.phase is not Phase.TEST_EVALUATION else result
    retry = RETRIES[failure.kind]
    fruitless = _count_fruitless(ended)
    if fruitless <= (retry.times or 0):
        done = ended[-1].epochs
        after = f", from epoch {done + 1}" if 0 < done < plan.epochs else ", from its last epoch" if done else ""
        words = f"{failure.kind}: {failure.message}; again{after}"
        reason = f"attempt {plan.attempt} ended with {failure.kind}: {failure.message}; {retry.change}"
        return _again(plan, words, reason)
    if retry.times:
        message = f"{failure.message} ({fruitless} attempts in a row ended like this without a new epoch)"
        return replace(result, failure=replace(failure, message=message))
    return result


def _count_fruitless(ended: Sequence[EndedAttempt]) -> int:
    """Return how many of the last attempts, including the last, failed alike without a new epoch between them."""
    last = ended[-1]
    alike = itertools.takewhile(lambda one: (one.kind, one.epochs) == (last.kind, last.epochs), reversed(ended))
    return len(list(alike))


def resumed(plan: TrialPlan) -> TrialPlan:
    """Return the plan's next attempt, which resumes from the last checkpoint."""
    return replace(plan, attempt=plan.attempt + 1, resumes=True)


def queue_again(plan: TrialPlan, cause: StopCause) -> NextAttempt:
    """Return the attempt that follows one that was stopped to free main memory, or because GPU sharing did not pay."""
    if cause is StopCause.MEMORY:
        words = f"stopped, the main memory is nearly full; again below {plan.settings.memory_threshold:g} %"
        return _again(plan, words, "stopped because the main memory was nearly full, and queued again")
    words = "stopped, sharing its GPU does not pay; again when there is room elsewhere"
    return _again(plan, words, "stopped because sharing its GPU did not pay, and queued again")


def _again(plan: TrialPlan, words: str, reason: str, how: str = "") -> NextAttempt:
    following = resumed(plan)
    return NextAttempt(following, words, Decision(plan.number, "attempt", f"{following.attempt}{how}", reason))


def _with_less_memory(plan: TrialPlan, slot: Slot, result: TrialResult, failure: Failure) -> NextAttempt | TrialResult:
    """Return the attempt with at most half the micro-batch, or the result if `min_micro_batch` forbids it."""
    batch, least = _failed_batch(plan, slot, result), plan.settings.min_micro_batch
    steps = fewer_at_once(batch, least)
    if steps is None:
        message = f"{failure.message} (with micro-batches of {batch.micro_batch}; min_micro_batch = {least})"
        return replace(result, failure=replace(failure, message=message), micro_batch=batch.micro_batch)
    fewer = batch.global_batch // batch.replicas // steps
    words = f"out of memory with micro-batches of {batch.micro_batch}; again with {fewer}"
    reason = f"attempt {plan.attempt} ran out of memory with {batch.micro_batch}: {failure.message}"
    decision = Decision(plan.number, "micro-batch", str(fewer), reason)
    return NextAttempt(replace(resumed(plan), accumulation_steps=steps), words, decision)


def _failed_batch(plan: TrialPlan, slot: Slot, result: TrialResult) -> BatchPlan:
    """Return the batch that did not fit: as the trial reported it, or else as it was planned."""
    replicas = len(slot.gpu_ids) or plan.settings.cpu_replicas
    planned = plan_batch(plan.settings, plan.dataset.train_size, replicas, plan.accumulation_steps)
    if result.micro_batch == 0:
        return planned
    steps = result.accumulation_steps or plan.accumulation_steps
    return BatchPlan(result.micro_batch * steps * replicas, replicas, steps, planned.wanted)
