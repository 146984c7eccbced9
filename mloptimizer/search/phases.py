"""What each phase of a search trains next, and what it does with the results."""

import dataclasses
from collections.abc import Sequence

from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Outcome, Params, Phase, TrialPlan, TrialResult, result_from_json
from mloptimizer.search.job import Job, Untrained
from mloptimizer.store.trial_records import TrialRecord
from mloptimizer.study.tally import Ended


class Exploration:
    """Short trainings of many models, proposed by the study; weights stay only of those that may enter the hall."""

    phase = Phase.EXPLORATION

    def __init__(self, job: Job) -> None:
        self._job = job
        self._running: set[int] = set()
        self._kept = self._find_best()  # numbers of the trials that may have weights
        job.store.keep_weights(self.phase, self._kept)
        self.profiled = False  # whether the trial to profile was trained

    def next_plan(self) -> TrialPlan | Untrained | None:
        """Return the study's next proposal; None when all trials are ended or running, or none can be proposed now."""
        if self._is_full():
            return None
        if plan := _take_up(self._job, self):
            self._running.add(plan.number)
            return plan
        return None if self._is_full() else self._propose()  # by results that had been recorded, but not told

    def _propose(self) -> TrialPlan | Untrained | None:
        job = self._job
        suggestion = job.study.ask(list(job.spaces.values()), job.dataset)
        if suggestion is None:
            return None
        number = suggestion.number
        plan = self.plan(number, suggestion.space, suggestion.params)
        if suggestion.failure:
            return Untrained(plan, TrialResult(number, Outcome.FAILED, None, 0.0, failure=suggestion.failure))
        if suggestion.reused_from is not None:
            return Untrained(plan, self._take_over(number, suggestion.reused_from))
        self._running.add(number)
        self.profiled |= plan.profiled
        return plan

    def _is_full(self) -> bool:
        return len(self.ended()) + len(self._running) >= self.total()

    def plan(self, number: int, space: str, params: Params) -> TrialPlan:
        """Return the short training of the configuration."""
        epochs, patience = self._job.settings.exploration_epochs, self._job.settings.exploration_patience
        return self._job.plan(number, self.phase, space, params, epochs=epochs, patience=patience)

    def _take_over(self, number: int, twin: int) -> TrialResult:
        """Return the result of an equal trial under the new number."""
        known = self._job.study.trial(twin)
        outcome = known.outcome or Outcome.FAILED
        value = known.value if outcome is Outcome.COMPLETED else None
        return TrialResult(number, outcome, value, 0.0, known.metrics, failure=known.failure)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; its pruner decides, but not after the last epoch: then there is nothing to save."""
        value = record.metrics[self._job.settings.objective]
        prune = self._job.study.report(record.number, record.epoch, value)
        return prune and record.epoch < self._job.settings.exploration_epochs

    def suspend(self, number: int) -> None:
        """Let the trial wait in the study."""
        self._running.discard(number)
        self._job.study.suspend(number, self.phase)

    def finish(self, result: TrialResult) -> None:
        """Tell the study, and remove the weights of the trials that are not, or no longer, among the best."""
        self._running.discard(result.number)
        self._job.study.finish(result, self.phase)
        best = self._find_best()
        for number in (self._kept | {result.number}) - best:
            self._job.store.remove_weights(self.phase, number)
        self._kept = best

    def _find_best(self) -> set[int]:
        best = self._job.study.best(self._job.settings.hall_of_fame_size, self.phase)
        return {trial.number for trial in best}

    def total(self) -> int:
        return self._job.goal.trials

    def ended(self) -> Ended:
        return self._job.study.ended(self.phase)

    def best(self) -> tuple[int, float] | None:
        return best_of(self._job, self.phase)


class HallOfFame:
    """The long training of the best models of the exploration; nothing is pruned."""

    phase = Phase.HALL_OF_FAME

    def __init__(self, job: Job) -> None:
        self._job = job
        best = job.study.best(2 * job.settings.hall_of_fame_size)
        self._members = best[: len(best) // 2]  # never more than half of those that were completed
        trained = {trial.number for trial in job.study.trials(self.phase) if trial.outcome is not None}
        self._waiting = [member for member in self._members if member.number not in trained]
        for trial in job.study.unfinished(self.phase):
            if trial.number not in {member.number for member in self._members}:
                job.study.give_up(trial.number, self.phase, "better models have taken its place in the hall of fame")
        job.store.keep_weights(Phase.EXPLORATION, {member.number for member in self._waiting})

    def next_plan(self) -> TrialPlan | None:
        """Return the member that was cut off, or else the best that is still to be trained."""
        if plan := _take_up(self._job, self):
            self._waiting = [member for member in self._waiting if member.number != plan.number]
            return plan
        if not self._waiting:
            return None
        member = self._waiting.pop(0)
        self._job.study.start_hall_of_fame(member.number)
        return self.plan(member.number, member.space, member.params)

    def plan(self, number: int, space: str, params: Params) -> TrialPlan:
        """Return the long training of the configuration, from its exploration weights where these are to be used."""
        settings, kept = self._job.settings, self._job.store.trial(number)
        warm = kept.weights if settings.warm_start_hall_of_fame and kept else None
        epochs, patience = settings.hall_of_fame_epochs, settings.hall_of_fame_patience
        weights = str(warm.resolve()) if warm else ""
        plan = self._job.plan(number, self.phase, space, params, epochs=epochs, patience=patience, weights=weights)
        return _as_fitted(plan, kept)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; never pruned."""
        self._job.study.report(record.number, record.epoch, record.metrics[self._job.settings.objective], self.phase)
        return False

    def suspend(self, number: int) -> None:
        """Let the training wait in the study."""
        self._job.study.suspend(number, self.phase)

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


class FinalEvaluation:
    """The winner's one reading of the test set."""

    phase = Phase.TEST_EVALUATION

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

    def suspend(self, number: int) -> None:
        """Let the next run read the test set, which this one did not."""
        self._started = False

    def finish(self, result: TrialResult) -> None:
        """Keep the reading with the study's records."""
        self._result = result
        if result.outcome is Outcome.COMPLETED:
            self._job.store.add_test_evaluation(result, self._source)

    def total(self) -> int:
        return 1

    def ended(self) -> Sequence[Outcome]:
        return [self._result.outcome] if self._result else []

    def best(self) -> tuple[int, float] | None:
        return None


def _take_up(job: Job, phase: "Exploration | HallOfFame") -> TrialPlan | None:
    """Return a trial of the phase that was cut off, to go on from its checkpoint; None: there is none.

    One whose result had been recorded, but not told to the study, is told now.
    """
    for trial in job.study.unfinished(phase.phase):
        job.study.resume(trial.number, phase.phase)
        record = job.store.trial(trial.number, phase.phase)
        if record and record.result:
            phase.finish(result_from_json(record.result))
            continue
        plan = phase.plan(trial.number, trial.space, trial.params)
        if record is None:
            return plan
        attempt = record.plan.get("attempt", 1) + 1
        return dataclasses.replace(_as_fitted(plan, record), attempt=attempt, resumes=True)
    return None


def _as_fitted(plan: TrialPlan, earlier: TrialRecord | None) -> TrialPlan:
    """Return the plan with as few images at a time as the model's earlier training needed to fit into memory."""
    return plan if earlier is None else dataclasses.replace(plan, accumulation_steps=fitted_steps(earlier))


def fitted_steps(earlier: TrialRecord) -> int:
    """Return in how many micro-batches a step of the model's earlier training had to be divided."""
    return int(earlier.result.get("accumulation_steps") or earlier.plan.get("accumulation_steps", 1))


def best_of(job: Job, phase: Phase) -> tuple[int, float] | None:
    """Return number and value of the phase's best trial, or None."""
    best = job.study.best(1, phase)
    return (best[0].number, best[0].value) if best and best[0].value is not None else None
