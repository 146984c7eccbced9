"""What each phase of a search trains next, and what it does with the results."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mloptimizer.metrics_store import MetricsStore, TrialRecord
from mloptimizer.records import (
    DatasetInfo,
    EpochRecord,
    Objective,
    Outcome,
    Params,
    Phase,
    TrialPlan,
    TrialResult,
)
from mloptimizer.settings import Settings
from mloptimizer.spaces import SearchSpace
from mloptimizer.study.study import Study
from mloptimizer.workspace import Workspace


@dataclass(frozen=True)
class Job:
    """What all phases of one search share."""

    name: str  # of the study
    study: Study
    spaces: Mapping[str, SearchSpace]  # those to propose from; earlier runs may have used others
    dataset: DatasetInfo
    settings: Settings
    seed: int
    workspace: Workspace
    store: MetricsStore
    profile_trial: int | None = None  # number of the exploration trial to profile
    tuned: tuple[str, ...] = ()  # names of the settings whose values tuning chose

    @property
    def objective(self) -> Objective:
        return Objective(self.settings.objective)

    def plan(
        self,
        number: int,
        phase: Phase,
        space: str,
        params: Params,
        *,
        epochs: int = 0,
        patience: int = 0,
        weights: str = "",
    ) -> TrialPlan:
        """Return the plan; its seed depends on the study's seed and the trial's number alone."""
        return TrialPlan(
            study=self.name,
            number=number,
            phase=phase,
            space=space,
            space_source=self.spaces[space].source if space in self.spaces else self.store.read_space(space),
            params=params,
            dataset=self.dataset,
            epochs=epochs,
            patience=patience,
            seed=random.Random(f"{self.seed}:{number}").randrange(2**31),
            directory=str(self.workspace.trial(self.name, number, phase).resolve()),
            initial_weights=weights,
            cache_directory=str(self.workspace.cache(self.name).resolve()),
            profiled=phase is Phase.EXPLORATION and number == self.profile_trial,
            settings=self.settings.model_copy(update={"storage": ""}),  # workers need no database, and no password
            tuned=self.tuned,
        )


@dataclass(frozen=True)
class Untrained:
    """A trial that ended when it was proposed: its space could not be sampled, or its configuration was known."""

    plan: TrialPlan
    result: TrialResult


class PhaseRun(Protocol):
    """One phase of a search: the loop asks it for plans and brings it epochs and results."""

    phase: Phase

    def next_plan(self) -> TrialPlan | Untrained | None:
        """Return what to train next, or a trial that has ended already; None: nothing at the moment."""
        ...

    def report(self, record: EpochRecord) -> bool:
        """Take an epoch's figures; True: the trial is to be pruned."""
        ...

    def finish(self, result: TrialResult) -> None:
        """Take a trial's result."""
        ...

    def total(self) -> int:
        """Return how many trials the phase has in all."""
        ...

    def ended(self) -> Sequence[Outcome]:
        """Return the outcomes of its ended trials, of earlier runs too."""
        ...

    def best(self) -> tuple[int, float] | None:
        """Return number and value of its best trial."""
        ...


class Exploration:
    """Short trainings of many models, proposed by the study; weights stay only of those that may enter the hall."""

    phase = Phase.EXPLORATION

    def __init__(self, job: Job) -> None:
        self._job = job
        self._running: set[int] = set()
        self.profiled = False  # whether the trial to profile was trained

    def next_plan(self) -> TrialPlan | Untrained | None:
        """Return the study's next proposal; None when all trials are ended or running, or none can be proposed now."""
        job, settings = self._job, self._job.settings
        if len(self.ended()) + len(self._running) >= self.total():
            return None
        suggestion = job.study.ask(list(job.spaces.values()), job.dataset)
        if suggestion is None:
            return None
        number, space, params = suggestion.number, suggestion.space, suggestion.params
        epochs, patience = settings.exploration_epochs, settings.exploration_patience
        plan = job.plan(number, self.phase, space, params, epochs=epochs, patience=patience)
        if suggestion.failure:
            return Untrained(plan, TrialResult(number, Outcome.FAILED, None, 0.0, failure=suggestion.failure))
        if suggestion.reused_from is not None:
            return Untrained(plan, self._take_over(number, suggestion.reused_from))
        self._running.add(number)
        self.profiled |= plan.profiled
        return plan

    def _take_over(self, number: int, twin: int) -> TrialResult:
        """Return the result of an equal trial under the new number."""
        known = {trial.number: trial for trial in self._job.study.trials()}[twin]
        outcome = known.outcome or Outcome.FAILED
        value = known.value if outcome is Outcome.COMPLETED else None
        return TrialResult(number, outcome, value, 0.0, known.metrics, failure=known.failure)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; its pruner decides, but not after the last epoch: then there is nothing to save."""
        value = record.metrics[self._job.settings.objective]
        prune = self._job.study.report(record.number, record.epoch, value)
        return prune and record.epoch < self._job.settings.exploration_epochs

    def finish(self, result: TrialResult) -> None:
        """Tell the study, and remove the weights of every trial that is not among the best."""
        self._running.discard(result.number)
        self._job.study.finish(result, self.phase)
        keep = {trial.number for trial in self._job.study.best(self._job.settings.hall_of_fame_size, self.phase)}
        self._job.store.keep_weights(self.phase, keep)

    def total(self) -> int:
        return self._job.settings.trials

    def ended(self) -> Sequence[Outcome]:
        return self._job.study.outcomes(self.phase)

    def best(self) -> tuple[int, float] | None:
        return best_of(self._job, self.phase)


class HallOfFame:
    """The long training of the best models of the exploration; nothing is pruned."""

    phase = Phase.HALL_OF_FAME

    def __init__(self, job: Job) -> None:
        self._job = job
        size = min(job.settings.hall_of_fame_size, job.study.counts().completed // 2)
        self._members = job.study.best(size, Phase.EXPLORATION)
        trained = {trial.number for trial in job.study.trials(self.phase) if trial.outcome is not None}
        self._waiting = [member for member in self._members if member.number not in trained]
        job.store.keep_weights(Phase.EXPLORATION, {member.number for member in self._waiting})

    def next_plan(self) -> TrialPlan | None:
        """Return the best member that is still to be trained."""
        if not self._waiting:
            return None
        member, settings = self._waiting.pop(0), self._job.settings
        self._job.study.start_hall_of_fame(member.number)
        kept = self._job.store.trial(member.number)
        warm = kept.weights if settings.warm_start_hall_of_fame and kept else None
        plan = self._job.plan(
            member.number,
            self.phase,
            member.space,
            member.params,
            epochs=settings.hall_of_fame_epochs,
            patience=settings.hall_of_fame_patience,
            weights=str(warm.resolve()) if warm else "",
        )
        return _as_fitted(plan, kept)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; never pruned."""
        self._job.study.report(record.number, record.epoch, record.metrics[self._job.settings.objective], self.phase)
        return False

    def finish(self, result: TrialResult) -> None:
        """Tell the study; only the best keep their weights, and those of a member's exploration have served."""
        self._job.study.finish(result, self.phase)
        best = self._job.study.best(self._job.settings.hall_of_fame_size, self.phase)
        self._job.store.keep_weights(self.phase, {trial.number for trial in best})
        if result.outcome is Outcome.COMPLETED:
            self._job.store.remove_weights(Phase.EXPLORATION, result.number)

    def total(self) -> int:
        return len(self._members)

    def ended(self) -> Sequence[Outcome]:
        members = {member.number for member in self._members}
        trials = self._job.study.trials(self.phase)
        return [trial.outcome for trial in trials if trial.number in members and trial.outcome is not None]

    def best(self) -> tuple[int, float] | None:
        return best_of(self._job, self.phase)


class Verdict:
    """The winner's one reading of the test set."""

    phase = Phase.VERDICT

    def __init__(self, job: Job, winner: int, source: Phase) -> None:
        self._job = job
        self._winner = winner
        self._source = source
        self._result: TrialResult | None = None
        self._started = False

    def next_plan(self) -> TrialPlan | None:
        """Return the winner with its kept weights, once."""
        record = self._job.store.trial(self._winner, self._source)
        if self._started or record is None or record.weights is None:
            return None
        self._started = True
        plan = self._job.plan(
            self._winner, self.phase, record.plan["space"], record.plan["params"], weights=str(record.weights.resolve())
        )
        return _as_fitted(plan, record)

    def report(self, record: EpochRecord) -> bool:
        return False

    def finish(self, result: TrialResult) -> None:
        """Keep the reading with the study's records."""
        self._result = result
        if result.outcome is Outcome.COMPLETED:
            self._job.store.add_verdict(result, self._source)

    def total(self) -> int:
        return 1

    def ended(self) -> Sequence[Outcome]:
        return [self._result.outcome] if self._result else []

    def best(self) -> tuple[int, float] | None:
        return None


def _as_fitted(plan: TrialPlan, earlier: TrialRecord | None) -> TrialPlan:
    """Return the plan with as few images at a time as the model's earlier training needed to fit into memory."""
    if earlier is None:
        return plan
    steps = earlier.result.get("accumulation_steps") or earlier.plan.get("accumulation_steps", 1)
    return dataclasses.replace(plan, accumulation_steps=steps)


def best_of(job: Job, phase: Phase) -> tuple[int, float] | None:
    """Return number and value of the phase's best trial, or None."""
    best = job.study.best(1, phase)
    return (best[0].number, best[0].value) if best and best[0].value is not None else None
