"""What each phase of a search trains next, and what it does with the results."""

from collections.abc import Sequence
from dataclasses import replace

from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Outcome, Params, Phase, TrialPlan, TrialResult, result_from_json
from mloptimizer.search.job import Job, Untrained
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.study.tally import Ended


class Exploration:
    """Short trainings of many models, proposed by the study; weights stay only of those that may enter the hall."""

    phase = Phase.EXPLORATION

    def __init__(self, job: Job) -> None:
        self._job, self._running = job, set[int]()
        self._kept = self._find_best()  # numbers of the trials that may have weights
        job.store.keep_weights(self.phase, self._kept)
        self.profiled = False  # whether the trial to profile was trained

    def next_plan(self) -> TrialPlan | Untrained | None:
        """Return the study's next proposal; None if all trials are ended or running, or none can be proposed now."""
        if self._is_full():
            return None
        if plan := _take_up(self._job, self):
            self._running.add(plan.number)
            return plan
        return None if self._is_full() else self._propose()  # full: by recorded results that the study did not have

    def _propose(self) -> TrialPlan | Untrained | None:
        job = self._job
        if (suggestion := job.study.ask(list(job.spaces.values()), job.dataset)) is None:
            return None
        number = suggestion.number
        plan = self.plan(number, suggestion.space, suggestion.params)
        if suggestion.failure:
            return Untrained(plan, TrialResult(number, Outcome.FAILED, None, 0.0, failure=suggestion.failure))
        if suggestion.reused_from is not None:
            return Untrained(plan, self._copy_result(number, suggestion.reused_from))
        self._running.add(number)
        self.profiled |= plan.profiled
        return plan

    def _is_full(self) -> bool:
        return len(self.ended()) + len(self._running) >= self.total()

    def plan(self, number: int, space: str, params: Params) -> TrialPlan:
        """Return the short training of the configuration."""
        epochs, patience = self._job.settings.exploration_epochs, self._job.settings.exploration_patience
        return self._job.plan(number, self.phase, space, params, epochs=epochs, patience=patience)

    def _copy_result(self, number: int, twin: int) -> TrialResult:
        """Return the result of a trial with the same configuration under the new number."""
        known = self._job.study.trial(twin)
        outcome = known.outcome or Outcome.FAILED
        value = known.value if outcome is Outcome.COMPLETED else None
        return TrialResult(number, outcome, value, 0.0, known.metrics, failure=known.failure)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; its pruner decides, except after the last epoch, when pruning would save nothing."""
        value = record.metrics[self._job.settings.objective]
        prune = self._job.study.report(record.number, record.epoch, value)
        return prune and record.epoch < self._job.settings.exploration_epochs

    def suspend(self, number: int) -> None:
        """Let the trial wait in the study."""
        self._running.discard(number)
        self._job.study.suspend(number, self.phase)

    def finish(self, result: TrialResult) -> None:
        """Report to the study, and remove the weights of trials that are not among the best."""
        self._running.discard(result.number)
        self._job.study.finish(result, self.phase)
        best = self._find_best()
        for number in (self._kept | {result.number}) - best:
            self._job.store.remove_weights(self.phase, number)
        self._kept = best

    def _find_best(self) -> set[int]:
        return {trial.number for trial in self._job.study.best(self._job.settings.hall_of_fame_size, self.phase)}

    def total(self) -> int:
        return self._job.goal.trials

    def ended(self) -> Ended:
        return self._job.study.ended(self.phase)


class HallOfFame:
    """The long training of the best models of the exploration; no trial is pruned."""

    phase = Phase.HALL_OF_FAME

    def __init__(self, job: Job) -> None:
        self._job = job
        best = job.study.best(2 * job.settings.hall_of_fame_size)
        self._members = best[: len(best) // 2]  # never more than half of those that were completed
        self._numbers = {member.number for member in self._members}
        trained = {trial.number for trial in job.study.trials(self.phase) if trial.outcome is not None}
        self._waiting = [member for member in self._members if member.number not in trained]
        for trial in job.study.unfinished(self.phase):
            if trial.number not in self._numbers:
                job.study.give_up(trial.number, self.phase, "better models have taken its place in the hall of fame")
        job.store.keep_weights(Phase.EXPLORATION, {member.number for member in self._waiting})

    def next_plan(self) -> TrialPlan | None:
        """Return the member that was cut off, or else the best one that is still to be trained."""
        if plan := _take_up(self._job, self):
            self._waiting = [member for member in self._waiting if member.number != plan.number]
            return plan
        if not self._waiting:
            return None
        member = self._waiting.pop(0)
        self._job.study.start_hall_of_fame(member.number)
        return self.plan(member.number, member.space, member.params)

    def plan(self, number: int, space: str, params: Params) -> TrialPlan:
        """Return the long training of the configuration, from its exploration weights if the settings say so."""
        settings, kept = self._job.settings, self._job.store.trial(number)
        warm = kept.weights if settings.warm_start_hall_of_fame and kept else None
        epochs, patience = settings.hall_of_fame_epochs, settings.hall_of_fame_patience
        plan = self._job.plan(number, self.phase, space, params, epochs=epochs, patience=patience)
        return _with_fitted_steps(replace(plan, initial_weights=str(warm.resolve()) if warm else ""), kept)

    def report(self, record: EpochRecord) -> bool:
        """Report to the study; never prune."""
        self._job.study.report(record.number, record.epoch, record.metrics[self._job.settings.objective], self.phase)
        return False

    def suspend(self, number: int) -> None:
        """Let the training wait in the study."""
        self._job.study.suspend(number, self.phase)

    def finish(self, result: TrialResult) -> None:
        """Report to the study; only the best keep their weights, and nobody needs a member's exploration weights."""
        self._job.study.finish(result, self.phase)
        best = self._job.study.best(self._job.settings.hall_of_fame_size, self.phase)
        self._job.store.keep_weights(self.phase, {trial.number for trial in best})
        if result.outcome is Outcome.COMPLETED:
            self._job.store.remove_weights(Phase.EXPLORATION, result.number)

    def total(self) -> int:
        return len(self._members)

    def ended(self) -> Sequence[Outcome]:
        trials = [trial for trial in self._job.study.trials(self.phase) if trial.number in self._numbers]
        return [trial.outcome for trial in trials if trial.outcome is not None]


class FinalEvaluation:
    """Evaluates the winner on the test set, once."""

    phase = Phase.TEST_EVALUATION

    def __init__(self, job: Job, winner: int, source: Phase) -> None:
        self._job, self._winner, self._source = job, winner, source
        self._result: TrialResult | None = None
        self._started = False

    def next_plan(self) -> TrialPlan | None:
        """Return the winner with its kept weights, once."""
        record = self._job.store.trial(self._winner, self._source)
        if self._started or record is None or record.weights is None:
            return None
        self._started, weights = True, str(record.weights.resolve())
        what = (self._winner, self.phase, record.plan["space"], record.plan["params"])
        return _with_fitted_steps(self._job.plan(*what, initial_weights=weights), record)

    def report(self, record: EpochRecord) -> bool:
        return False

    def suspend(self, number: int) -> None:
        """Leave the test set to the next run, since this one did not read it."""
        self._started = False

    def finish(self, result: TrialResult) -> None:
        """Keep the result with the study's records."""
        self._result = result
        if result.outcome is Outcome.COMPLETED:
            self._job.store.add_test_evaluation(result, self._source)

    def total(self) -> int:
        return 1

    def ended(self) -> Sequence[Outcome]:
        return [self._result.outcome] if self._result else []


def _take_up(job: Job, phase: Exploration | HallOfFame) -> TrialPlan | None:
    """Return a trial of the phase that was cut off, to resume from its checkpoint; None: there is none.

    If its result was recorded, but the study does not have it, the study gets it now.
    """
    for trial in job.study.unfinished(phase.phase):
        job.study.resume(trial.number, phase.phase)
        record = job.store.trial(trial.number, phase.phase)
        if record and record.result:
            phase.finish(result_from_json(record.result))
            continue
        plan = _with_fitted_steps(phase.plan(trial.number, trial.space, trial.params), record)
        return replace(plan, attempt=record.plan.get("attempt", 1) + 1, resumes=True) if record else plan
    return None


def _with_fitted_steps(plan: TrialPlan, earlier: TrialRecord | None) -> TrialPlan:
    """Return the plan with as many micro-batches per step as the model's earlier training needed to fit into memory."""
    return plan if earlier is None else replace(plan, accumulation_steps=fitted_steps(earlier))


def fitted_steps(earlier: TrialRecord) -> int:
    """Return how many micro-batches a step of the model's earlier training needed to fit into memory."""
    return int(earlier.result.get("accumulation_steps") or earlier.plan.get("accumulation_steps", 1))
