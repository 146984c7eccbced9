"""Decides whether a trial whose attempt failed starts again as the next attempt, by one table.

Guarantees: an attempt trains with the same parameters, seed and images per step as the first, and goes on from its last
checkpoint, so that its result is the same. The number of attempts has an end: what does not change anything is tried
only so often without a new epoch, and micro-batches only get smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mloptimizer.core.events import Decision, EndedAttempt, MicroBatching
from mloptimizer.core.nouns import Failure, FailureKind, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.training.memory.batch_plan import BatchPlan, fewer_at_once, plan_batch


@dataclass(frozen=True)
class Retry:
    """How a failure is met: so many further attempts in a row without a new epoch, and what they change."""

    times: int | None  # None: as long as the change is possible
    change: str


RETRIES: Mapping[FailureKind, Retry] = {
    FailureKind.OUT_OF_MEMORY: Retry(
        None, "half the micro-batch, down to min_micro_batch; where it shared its GPU, first the same one, alone"
    ),
    FailureKind.NON_FINITE: Retry(0, "none: its weights have gone back nan_retries times already"),
    FailureKind.CRASH: Retry(2, "a new process"),
    FailureKind.LOST_WORKER: Retry(5, "another worker: it is not the trial's fault"),
    FailureKind.HUNG: Retry(1, "a new process"),
    FailureKind.TIME_LIMIT: Retry(0, "none: it would take as long again"),
    FailureKind.SPACE_ERROR: Retry(0, "none: the search space has to be mended"),
    FailureKind.DATA_ERROR: Retry(1, "the images are read again"),
    FailureKind.DISK_FULL: Retry(3, "the search pauses until there is room"),
    FailureKind.INTERRUPTED: Retry(1, "a new process"),
    FailureKind.ERROR: Retry(0, "none: the same would be raised again"),
}


@dataclass(frozen=True)
class NextAttempt:
    """The plan to start when a slot is free, and why."""

    plan: TrialPlan
    words: str  # for the person, after the trial's name
    decision: Decision


def with_last_micro_batching(result: TrialResult, chosen: MicroBatching | None) -> TrialResult:
    """Return the result with the attempt's last division of a step, where it does not tell one: its worker died."""
    if chosen is None or result.micro_batch:
        return result
    return replace(
        result,
        micro_batch=chosen.micro_batch,
        accumulation_steps=chosen.accumulation_steps,
        memory_mb=result.memory_mb or chosen.memory_mb,
    )


def find_next_attempt(
    plan: TrialPlan, slot: Slot, result: TrialResult, ended: Sequence[EndedAttempt], shared: bool = False
) -> NextAttempt | TrialResult:
    """Return the attempt that follows, or the result where it is to count.

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
    in_vain = count_in_vain(ended)
    if in_vain <= (retry.times or 0):
        done = ended[-1].epochs
        after = f", from epoch {done + 1}" if 0 < done < plan.epochs else ", from its last epoch" if done else ""
        words = f"{failure.kind}: {failure.message}; again{after}"
        reason = f"attempt {plan.attempt} ended with {failure.kind}: {failure.message}; {retry.change}"
        return _again(plan, words, reason)
    if retry.times:
        message = f"{failure.message} ({in_vain} attempts in a row ended so without a new epoch)"
        return replace(result, failure=replace(failure, message=message))
    return result


def count_in_vain(ended: Sequence[EndedAttempt]) -> int:
    """Return how many of the last attempts, the last included, failed alike without a new epoch between them."""
    count = 0
    for attempt in reversed(ended):
        if (attempt.kind, attempt.epochs) != (ended[-1].kind, ended[-1].epochs):
            break
        count += 1
    return count


def go_on(plan: TrialPlan) -> TrialPlan:
    """Return the plan's next attempt, which goes on from the last checkpoint."""
    return replace(plan, attempt=plan.attempt + 1, resumes=True)


def make_way(plan: TrialPlan) -> NextAttempt:
    """Return the attempt that follows one which was stopped for want of main memory."""
    words = f"stopped, the main memory is nearly full; again below {plan.settings.memory_threshold:g} %"
    return _again(plan, words, "stopped for want of main memory, and queued again")


def leave_gpu(plan: TrialPlan) -> NextAttempt:
    """Return the attempt that follows one which was stopped because sharing its GPU did not pay."""
    words = "stopped, sharing its GPU does not pay; again when there is room elsewhere"
    return _again(plan, words, "stopped because sharing its GPU did not pay, and queued again")


def _again(plan: TrialPlan, words: str, reason: str, how: str = "") -> NextAttempt:
    following = go_on(plan)
    return NextAttempt(following, words, Decision(plan.number, "attempt", f"{following.attempt}{how}", reason))


def _with_less_memory(plan: TrialPlan, slot: Slot, result: TrialResult, failure: Failure) -> NextAttempt | TrialResult:
    """Return the attempt with at most half the images at a time, or the result where `min_micro_batch` forbids it."""
    batch, least = failed_batch(plan, slot, result), plan.settings.min_micro_batch
    steps = fewer_at_once(batch, least)
    if steps is None:
        message = f"{failure.message} (with micro-batches of {batch.micro_batch}; min_micro_batch = {least})"
        return replace(result, failure=replace(failure, message=message), micro_batch=batch.micro_batch)
    fewer = batch.global_batch // batch.replicas // steps
    words = f"out of memory with micro-batches of {batch.micro_batch}; again with {fewer}"
    reason = f"attempt {plan.attempt} ran out of memory with {batch.micro_batch}: {failure.message}"
    decision = Decision(plan.number, "micro-batch", str(fewer), reason)
    return NextAttempt(replace(go_on(plan), accumulation_steps=steps), words, decision)


def failed_batch(plan: TrialPlan, slot: Slot, result: TrialResult) -> BatchPlan:
    """Return the division of a step that did not fit: as the trial told it, or else as it was planned."""
    replicas = len(slot.gpu_ids) or plan.settings.cpu_replicas
    planned = plan_batch(plan.settings, plan.dataset.train_size, replicas, plan.accumulation_steps)
    if result.micro_batch == 0:
        return planned
    steps = result.accumulation_steps or plan.accumulation_steps
    return BatchPlan(result.micro_batch * steps * replicas, replicas, steps, planned.wanted)
