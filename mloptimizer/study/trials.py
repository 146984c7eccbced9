"""Reads what an Optuna trial means for mloptimizer: its status, configuration, value and failure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Params, Phase


class TrialStatus(StrEnum):
    """How a trial stands; the first three are outcomes, the others do not count as done."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    WAITING = "waiting"  # to be tried, or to go on after it was cut off
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # cut off before it began, or given up when it had been
    TAUGHT = "taught"  # taken over from an earlier study, for the sampler to learn from
    DUPLICATE = "duplicate"  # its configuration had been tried; another was asked instead


@dataclass(frozen=True)
class TrialSummary:
    """A trial of a study; in the hall of fame it has the number of its exploration."""

    number: int
    phase: Phase
    status: TrialStatus
    space: str
    params: Params
    value: float | None  # the objective; of a pruned trial the last one that it reported
    epochs: int  # reported so far
    seconds: float | None
    metrics: Mapping[str, float]  # of the best epoch
    failure: Failure | None
    reused_from: int | None  # number of the equal trial whose result it took over
    duplicate_of: int | None

    @property
    def outcome(self) -> Outcome | None:
        """How the trial ended, if it counts as done."""
        return Outcome(self.status) if self.status in set(Outcome) else None


def summarize(trial: FrozenTrial, phase: Phase) -> TrialSummary:
    """Return what the Optuna trial means."""
    attributes = trial.user_attrs
    kind = attributes.get("failure")
    failure = (
        Failure(FailureKind(kind), attributes.get("message", ""), attributes.get("traceback", "")) if kind else None
    )
    status = _read_status(trial.state, attributes)
    return TrialSummary(
        number=attributes.get("trial", trial.number),
        phase=phase,
        status=status,
        space=attributes.get("space", ""),
        params=attributes.get("params", {}),
        # Optuna gives a pruned trial its last report as its value; only what is finite is ever reported.
        value=None if status is TrialStatus.FAILED else trial.value,
        epochs=len(trial.intermediate_values),
        seconds=attributes.get("seconds"),
        metrics=attributes.get("metrics", {}),
        failure=failure,
        reused_from=attributes.get("reused_from"),
        duplicate_of=attributes.get("duplicate_of"),
    )


def _read_status(state: TrialState, attributes: Mapping[str, Any]) -> TrialStatus:
    if attributes.get("outcome") == TrialStatus.TAUGHT:
        return TrialStatus.TAUGHT
    if state is TrialState.PRUNED and attributes.get("outcome") == TrialStatus.FAILED:
        return TrialStatus.FAILED  # out of memory or time, told to Optuna in a way that its samplers learn from
    if state is TrialState.FAIL:
        if attributes.get("outcome") == TrialStatus.INTERRUPTED:
            return TrialStatus.INTERRUPTED
        return TrialStatus.DUPLICATE if "duplicate_of" in attributes else TrialStatus.FAILED
    return {
        TrialState.COMPLETE: TrialStatus.COMPLETED,
        TrialState.PRUNED: TrialStatus.PRUNED,
        TrialState.RUNNING: TrialStatus.RUNNING,
        TrialState.WAITING: TrialStatus.WAITING,
    }[state]
