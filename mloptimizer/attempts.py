"""Decides whether a trial that has ended starts again as the next attempt: with less memory, or after it gave way.

Guarantees: an attempt trains with the same parameters, seed and images per step as the first, so that its result is the
same; micro-batches only get smaller, so that their number of attempts has an end.
"""

from dataclasses import dataclass, replace

from mloptimizer.batches import BatchPlan, fewer_at_once, plan_batch
from mloptimizer.records import Decision, Division, Failure, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult


@dataclass(frozen=True)
class NextAttempt:
    """The plan to start when a slot is free, and why."""

    plan: TrialPlan
    words: str  # for the person, after the trial's name
    decision: Decision


def complete(result: TrialResult, division: Division | None) -> TrialResult:
    """Return the result with the attempt's last division of a step, where it does not tell one: its worker died."""
    if division is None or result.micro_batch:
        return result
    return replace(
        result,
        micro_batch=division.micro_batch,
        accumulation_steps=division.accumulation_steps,
        memory_mb=result.memory_mb or division.memory_mb,
    )


def find_next_attempt(plan: TrialPlan, slot: Slot, result: TrialResult, gave_way: bool) -> NextAttempt | TrialResult:
    """Return the attempt that follows, or the result where it is to count.

    Args:
        gave_way: the trial was told to stop for others' sake; it may have ended otherwise before it heard.
    """
    if gave_way and result.outcome is Outcome.PRUNED:
        return _anew(plan)
    if result.failure and result.failure.kind is FailureKind.OUT_OF_MEMORY and plan.phase is not Phase.VERDICT:
        return _with_less_memory(plan, slot, result, result.failure)
    return result


def _anew(plan: TrialPlan) -> NextAttempt:
    number = plan.attempt + 1
    decision = Decision(plan.number, "attempt", str(number), "stopped for want of main memory, and queued again")
    words = f"stopped, the main memory is nearly full; again below {plan.settings.memory_threshold:g} %"
    return NextAttempt(replace(plan, attempt=number), words, decision)


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
    return NextAttempt(replace(plan, attempt=plan.attempt + 1, accumulation_steps=steps), words, decision)


def failed_batch(plan: TrialPlan, slot: Slot, result: TrialResult) -> BatchPlan:
    """Return the division of a step that did not fit: as the trial told it, or else as it was planned."""
    replicas = len(slot.gpu_ids) or plan.settings.cpu_replicas
    planned = plan_batch(plan.settings, plan.dataset.train_size, replicas, plan.accumulation_steps)
    if result.micro_batch == 0:
        return planned
    steps = result.accumulation_steps or plan.accumulation_steps
    return BatchPlan(result.micro_batch * steps * replicas, replicas, steps, planned.wanted)
