"""One phase of a study in Optuna: records the trials and how they end, and reads them back.

Guarantees: the facts about a trial are stored before its end; only finite values are results; an epoch counts once,
also after a restart of its trial. An interrupted trial waits under its number, with its parameters and epochs, until
`resume` continues it.

Optuna's samplers ignore failed trials. To teach them which configurations need too much memory or time, Optuna gets
such a trial as pruned (the former with a violated constraint): TPE counts it among the bad ones, and it changes neither
the pruner nor the best trial, which use completed ones. Everywhere else it is a failed trial.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Phase, TrialResult, failed
from mloptimizer.core.study_names import HALL_OF_FAME_SUFFIX
from mloptimizer.study.history import History
from mloptimizer.study.optuna_internals import id_of
from mloptimizer.study.suggestions import configuration_key
from mloptimizer.study.tally import Tally
from mloptimizer.study.trials import TrialStatus, TrialSummary, summarize

_MOST_INTERRUPTIONS = 10  # without a new epoch in between: the trial may be what kills the driver
_LONGEST_MESSAGE = 2000
_TO_BE_TRIED = (TrialStatus.INTERRUPTED, TrialStatus.IMPORTED)  # their configurations may still be trained
_TEACHING = (FailureKind.OUT_OF_MEMORY, FailureKind.TIME_LIMIT)  # failures that a sampler should avoid


class PhaseStudy:
    """The Optuna study of one phase, for its only writer."""

    def __init__(self, storage: BaseStorage, name: str, phase: Phase) -> None:
        self.phase = phase
        self.history = History(storage, storage.get_study_id_from_name(name))
        self.optuna = optuna.load_study(study_name=name, storage=cast(BaseStorage, self.history))
        self.tally = Tally(self.history, phase, self.maximizes)
        self._running: dict[int, tuple[optuna.Trial, set[int]]] = {}  # with the epochs that it has reported

    @property
    def maximizes(self) -> bool:
        return self.optuna.direction == optuna.study.StudyDirection.MAXIMIZE

    def note_value(self, name: str, value: object) -> None:
        """Store the value as an attribute, and a list of values if the study has had others."""
        stored = self.optuna.user_attrs.get(name, [])
        values = stored if isinstance(stored, list) else [stored]
        if value not in values:
            self.optuna.set_user_attr(name, [*values, value] if values else value)

    def frozen_trials(self) -> list[FrozenTrial]:
        """Return Optuna's trials by number; do not change them."""
        return self.optuna.get_trials(deepcopy=False)

    def trials(self) -> list[TrialSummary]:
        return [summarize(trial, self.phase) for trial in self.frozen_trials()]

    # Writing

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    def start(self, number: int, trial: optuna.Trial) -> None:
        """Mark the trial as running under this number."""
        self._running[number] = (trial, set())

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Store an epoch's objective; return whether to prune the trial. A repeated epoch changes nothing."""
        if number not in self._running or not math.isfinite(value) or epoch in self._running[number][1]:
            return False
        trial, epochs = self._running[number]
        epochs.add(epoch)
        trial.report(float(value), epoch)
        return bool(trial.should_prune())  # some pruners return a NumPy bool

    def finish(self, result: TrialResult) -> None:
        """Store a running trial's result. Raises ValueError: the trial is not running."""
        if result.number not in self._running:
            raise ValueError(f"trial {result.number} is not running in the phase {self.phase}")
        outcome, failure = result.outcome, result.failure
        if outcome is Outcome.COMPLETED and (result.value is None or not math.isfinite(result.value)):
            outcome, failure = Outcome.FAILED, Failure(FailureKind.NON_FINITE, f"the objective is {result.value}")
        facts: dict[str, Any] = {
            "metrics": {name: float(value) for name, value in result.metrics.items() if math.isfinite(value)},
            "seconds": round(result.seconds, 3),
            "attempts": result.attempts,
            **{f"hardware_{name}": value for name, value in result.hardware.items() if value is not None},
        }
        if outcome is Outcome.FAILED:
            facts |= failure_facts(failure or Failure(FailureKind.ERROR, "the trial failed"))
        trial, _ = self._running[result.number]
        if failure is not None and failure.kind is FailureKind.OUT_OF_MEMORY:
            trial.set_constraint("memory_mb", result.memory_mb or 1.0)  # what it needed but did not get; 1: unknown
        self.tell(trial, outcome, result.value, **facts)
        del self._running[result.number]

    def suspend(self, number: int) -> None:
        """Let a running trial wait for `resume`; others are ignored."""
        if running := self._running.pop(number, None):
            self.history.set_trial_state_values(id_of(running[0]), TrialState.WAITING)

    def tell(self, trial: optuna.Trial, outcome: Outcome, value: float | None = None, **facts: Any) -> None:
        """Store the facts, then end the trial; only a completed one gets the value."""
        status: str = outcome
        if facts.pop("interrupted", False):
            status = TrialStatus.INTERRUPTED
        elif "duplicate_of" in facts:
            status = TrialStatus.DUPLICATE
        for name, fact in {"outcome": status, **facts}.items():
            trial.set_user_attr(name, fact)
        if outcome is Outcome.COMPLETED:
            self.optuna.tell(trial, value, TrialState.COMPLETE)
            return
        teaches = facts.get("failure") in _TEACHING
        state = TrialState.PRUNED if outcome is Outcome.PRUNED or teaches else TrialState.FAIL
        with warnings.catch_warnings():  # CMA-ES warns that it ignores constraints
            warnings.filterwarnings("ignore", "Constraints have been set")
            self.optuna.tell(trial, state=state)

    # Continuing

    def queue_leftovers(self) -> list[TrialResult]:
        """Let the trials that a dead driver left running wait for `resume`; end those that had not begun.

        Returns:
            The results of trials that failed now, after ten interruptions without a new epoch; they have no record.
        """
        given_up = []
        for frozen in self.history.open_trials():
            if frozen.state is not TrialState.RUNNING:
                continue
            trial, epochs = optuna.Trial(self.optuna, id_of(frozen)), len(frozen.intermediate_values)
            if "params" not in frozen.user_attrs:
                failure = Failure(FailureKind.INTERRUPTED, "the search ended while this trial was proposed")
                self.tell(trial, Outcome.FAILED, interrupted=True, **failure_facts(failure))
                continue
            before = frozen.user_attrs.get("interruptions", {})
            count = 1 + (before.get("count", 0) if before.get("epochs") == epochs else 0)
            if count >= _MOST_INTERRUPTIONS:
                failure = Failure(FailureKind.CRASH, f"the search died {count} times while this trial ran")
                self.tell(trial, Outcome.FAILED, **failure_facts(failure))
                number = summarize(frozen, self.phase).number
                given_up.append(failed(number, failure.kind, failure.message))
                continue
            trial.set_user_attr("interruptions", {"count": count, "epochs": epochs})
            self.history.set_trial_state_values(id_of(frozen), TrialState.WAITING)
        return given_up

    def unfinished(self) -> list[TrialSummary]:
        """Return the interrupted trials, which wait for `resume`."""
        return [summarize(trial, self.phase) for trial in self._waiting() if "params" in trial.user_attrs]

    def resume(self, number: int) -> bool:
        """Let an interrupted trial run again; False if no trial of this number waits."""
        for trial in self._waiting():
            if "params" in trial.user_attrs and summarize(trial, self.phase).number == number:
                self.history.set_trial_state_values(id_of(trial), TrialState.RUNNING)
                self._running[number] = (optuna.Trial(self.optuna, id_of(trial)), set(trial.intermediate_values))
                return True
        return False

    def give_up(self, number: int, message: str) -> None:
        """End a waiting trial as interrupted: nobody is going to resume it."""
        if self.resume(number):
            failure = Failure(FailureKind.INTERRUPTED, message)
            self.tell(self._running.pop(number)[0], Outcome.FAILED, interrupted=True, **failure_facts(failure))

    def queued(self) -> set[str]:
        """Return the keys of the configurations that wait to be tried first."""
        waiting = (trial.user_attrs for trial in self._waiting())
        return {facts["key"] for facts in waiting if "key" in facts and "params" not in facts}

    def _waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self.history.open_trials() if trial.state is TrialState.WAITING]

    def tried(self) -> dict[str, int]:
        """Return the first trial number by key of every configuration that is running, interrupted or done.

        After an error of its space, a configuration may be tried again: somebody may have fixed the space.
        """
        known: dict[str, int] = {}
        for trial, summary in zip(self.frozen_trials(), self.trials(), strict=True):
            of_the_space = summary.failure is not None and summary.failure.kind is FailureKind.SPACE_ERROR
            if "params" in trial.user_attrs and summary.status not in _TO_BE_TRIED and not of_the_space:
                known.setdefault(configuration_key(summary.space, summary.params), trial.number)
        return known


def failure_facts(failure: Failure) -> dict[str, Any]:
    """Return the facts that Optuna stores about a failure."""
    return {"failure": failure.kind, "message": failure.message[:_LONGEST_MESSAGE]}


def has_study(storage: BaseStorage, name: str) -> bool:
    """Return whether the storage has an Optuna study of this name."""
    return any(study.study_name == name for study in storage.get_all_studies())


def create_study(storage: BaseStorage, name: str, maximize: bool, attributes: Mapping[str, Any], place: str) -> bool:
    """Create the Optuna study with its attributes if it does not exist; return whether it is new.

    The long trainings of a deleted study of this name are deleted.

    Raises:
        UsageError: a study that mloptimizer did not make has the name, or that of the long trainings.
    """
    hall = name + HALL_OF_FAME_SUFFIX
    for known in (one for one in (name, hall) if has_study(storage, one)):
        if "objective" not in optuna.load_study(study_name=known, storage=storage).user_attrs:
            raise UsageError(f"{place}: the study '{known}' was not made by mloptimizer. Choose another study name.")
    if has_study(storage, name):
        return False
    if has_study(storage, hall):
        optuna.delete_study(study_name=hall, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize" if maximize else "minimize")
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study.set_metric_names([str(attributes["objective"])])  # the dashboard labels its axes with it
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    return True
