"""Reads the status, configuration, value and failure of a trial from Optuna's."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Params, Phase


class TrialStatus(StrEnum):
    """The state of a trial; the first three are outcomes, the others do not count as done."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    WAITING = "waiting"  # to be tried, or interrupted and to be resumed
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # before it began, or never to be resumed
    IMPORTED = "taught"  # imported from an earlier study, for the sampler to learn from
    DUPLICATE = "duplicate"  # its configuration was tried before, so another was proposed instead


@dataclass(frozen=True)
class TrialSummary:
    """A trial of a study; in the hall of fame it has the number of the explored trial."""

    number: int
    phase: Phase
    status: TrialStatus
    space: str
    params: Params
    value: float | None  # the objective; the last one if pruned
    epochs: int  # reported so far
    seconds: float | None
    metrics: Mapping[str, float]  # of the best epoch
    failure: Failure | None
    reused_from: int | None  # number of the equal trial that has this result
    duplicate_of: int | None

    @property
    def outcome(self) -> Outcome | None:
        """How the trial ended; None if it does not count as done."""
        return Outcome(self.status) if self.status in set(Outcome) else None


def summarize(trial: FrozenTrial, phase: Phase) -> TrialSummary:
    """Return the summary of an Optuna trial."""
    attributes = trial.user_attrs
    kind, message = attributes.get("failure"), attributes.get("message", "")
    failure = Failure(FailureKind(kind), message, attributes.get("traceback", "")) if kind else None
    status = _read_status(trial.state, attributes)
    return TrialSummary(
        number=attributes.get("trial", trial.number),
        phase=phase,
        status=status,
        space=attributes.get("space", ""),
        params=attributes.get("params", {}),
        # Optuna's value of a pruned trial is its last report; `PhaseStudy.report` takes only finite ones.
        value=None if status is TrialStatus.FAILED else trial.value,
        epochs=len(trial.intermediate_values),
        seconds=attributes.get("seconds"),
        metrics=attributes.get("metrics", {}),
        failure=failure,
        reused_from=attributes.get("reused_from"),
        duplicate_of=attributes.get("duplicate_of"),
    )


def _read_status(state: TrialState, attributes: Mapping[str, Any]) -> TrialStatus:
    outcome = attributes.get("outcome")
    if outcome == TrialStatus.IMPORTED:
        return TrialStatus.IMPORTED
    if state is TrialState.PRUNED:  # also out of memory or time, for the samplers to learn from
        return TrialStatus.FAILED if outcome == TrialStatus.FAILED else TrialStatus.PRUNED
    if state is not TrialState.FAIL:
        return TrialStatus.COMPLETED if state is TrialState.COMPLETE else TrialStatus(state.name.lower())
    if outcome == TrialStatus.INTERRUPTED:
        return TrialStatus.INTERRUPTED
    return TrialStatus.DUPLICATE if "duplicate_of" in attributes else TrialStatus.FAILED
