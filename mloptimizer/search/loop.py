"""Runs one phase of a search: plans go out to slots, epochs and results come back.

However the loop ends, the study has the result of every started trial or holds it for the next run: nothing stays
running in the records. To the study all attempts of a trial are one trial.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord, HardwareSample, MicroBatching, SignOfLife
from mloptimizer.core.listener import Listeners, Progress
from mloptimizer.core.nouns import Failure, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.deadlines import Deadlines
from mloptimizer.search.gpu_sharing import GpuSharing
from mloptimizer.search.job import PhaseRun, Untrained
from mloptimizer.search.memory_watch import MemoryWatch
from mloptimizer.search.retries import NextAttempt, find_next_attempt, queue_again, resumed, with_last_micro_batching
from mloptimizer.search.running_trials import Running, StopCause, check_result, count_neighbours, describe_end
from mloptimizer.search.search_run import SearchRun

_WAIT_SECONDS = 0.5
STOP_SECONDS = 15.0  # after which the process of a trial that was asked to stop is killed


class Loop:
    """One phase on one engine."""

    def __init__(self, run: SearchRun, phase: PhaseRun, engine: Engine) -> None:
        self._run, self._phase, self._engine, self._control = run, phase, engine, run.control
        self._running: dict[int, Running] = {}  # the newest last
        self._again: list[TrialPlan] = []  # next attempts that wait for a slot
        self._ended: dict[int, list[EndedAttempt]] = {}  # attempts, by trial
        self._memory = MemoryWatch(run.memory_percent, run.job.settings)
        self._sharing = GpuSharing(run.job.settings, run.gpu_needs, run.listeners.decided, run.read_gpus)
        self._deadlines = Deadlines(run.job.settings, run.clock)
        self._listeners = Listeners(run.listeners, self._sharing)
        self._started = self._shown = run.clock()
        self._ended_before = len(phase.ended())

    def run(self) -> None:
        """Run the phase until nothing is left of it, or the run is to stop.

        Raises:
            KeyboardInterrupt: inside `interruptible`; running trials wait in the study.
        """
        self._show()
        try:
            while True:
                self._obey()
                self._free_memory()
                self._fill_slots()
                self._show()
                self._listeners.turn_ended()
                if not self._running and not self._is_held():
                    return
                with self._run.interruptible():
                    events = self._engine.wait(_WAIT_SECONDS)
                for event in events:
                    self._deadlines.hear(event)
                    _TAKE[type(event)](self, event)
                for number in self._sharing.take_leaving():
                    self._ask_to_stop(number, StopCause.GPU_SHARING)
                self._credit(self._run.absent_seconds())
                self._end_overdue()
        finally:
            if self._running or self._again:
                self._abandon()
            self._sharing.close()

    # What stops trials

    def _obey(self) -> None:
        for line in self._control.look(self._run.job.best(self._phase.phase)):
            self._listeners.notice(line)
        if self._control.stop or self._control.paused:
            for number in self._running:
                self._ask_to_stop(number, StopCause.SUSPENDED)

    def _ask_to_stop(self, number: int, cause: StopCause | Failure) -> None:
        """Ask the trial to stop at its next step, unless it ended or was asked before."""
        running = self._running.get(number)
        if running and running.stop_cause is None:
            running.stop_cause, running.stop_asked = cause, self._run.clock()
            self._engine.stop_trial(number)

    def _credit(self, seconds: float) -> None:
        """Give the trials back the time in which nobody listened to them."""
        self._deadlines.hold(seconds)
        for running in self._running.values():
            running.stop_asked += seconds

    def _end_overdue(self) -> None:
        """Ask trials that hang or take too long to stop, and kill the processes of those that do not."""
        for number, failure in self._deadlines.find_overdue():
            if failure.kind is FailureKind.HUNG:
                self._running[number].stop_cause = self._running[number].stop_cause or failure
                self._engine.kill_trial(number)
            else:
                self._ask_to_stop(number, failure)
        now = self._run.clock()
        for number, running in self._running.items():
            if now - running.stop_asked > STOP_SECONDS:
                self._engine.kill_trial(number)

    def _free_memory(self) -> None:
        stop = self._memory.choose_stop([number for number, run in self._running.items() if not run.stop_cause])
        if stop is not None and stop.number is not None:
            self._listeners.decided(stop)
            self._ask_to_stop(stop.number, StopCause.MEMORY)

    def _is_held(self) -> bool:
        """Return whether there is work left although nothing runs: slots are not free yet, or the search pauses."""
        control = self._control
        if control.stop or self._again or self._engine.releasing():
            return not control.stop
        return (control.paused or control.disk.low) and len(self._phase.ended()) < self._phase.total()

    # Starting

    def _fill_slots(self) -> None:
        control = self._control
        for idle in self._sharing.order(self._engine.idle_slots()):
            if control.stop or control.paused or control.disk.low:
                return
            if not self._memory.allows_start(len(self._running)):
                return
            slot = self._sharing.offer(idle, [plan.number for plan in self._again])
            if slot is None:
                continue
            plan = self._again.pop(0) if self._again else self._next_plan()
            if plan is None:
                return
            self._start(plan, slot)

    def _start(self, plan: TrialPlan, slot: Slot) -> None:
        run, number, store = self._run, plan.number, self._run.job.store
        if number not in self._ended:
            self._ended[number] = store.ended_attempts(plan) if plan.resumes else []
        plan = replace(plan, recorded_epochs=store.measure(number, plan.phase)[0] if plan.resumes else 0)
        self._running[number] = Running(plan, slot, plan.recorded_epochs)
        spent = sum(attempt.seconds for attempt in self._ended[number])
        self._deadlines.start(number, spent)
        self._listeners.trial_started(plan, slot)
        with run.interruptible():
            self._engine.start(plan, slot)
        self._deadlines.start(number, spent)  # the first start waits for the imports

    def _next_plan(self) -> TrialPlan | None:
        job, patience = self._run.job, self._run.job.settings.stop_when_stagnant
        if self._phase.phase is Phase.EXPLORATION and 0 < patience <= job.study.count_since_best():
            self._control.stagnant = True
            return None
        while isinstance(planned := self._phase.next_plan(), Untrained):
            self._listeners.trial_ended(planned.plan, planned.result)
            self._control.judge(planned.plan, planned.result)
            self._show()
        return planned

    # Events of trials; those after a trial's end are ignored

    def _take_micro_batching(self, event: MicroBatching) -> None:
        if running := self._running.get(event.number):
            running.micro_batching = event
            self._listeners.micro_batches_chosen(running.plan, event)

    def _take_epoch(self, event: EpochRecord) -> None:
        running = self._running.get(event.number)
        if running is None or running.stop_cause is StopCause.PRUNED:
            return  # it continued for a moment after the decision
        again = running.epochs - event.epoch + 1
        if again > 0:
            reason = f"attempt {running.plan.attempt} resumed after epoch {event.epoch - 1} of {running.epochs}"
            self._listeners.decided(Decision(event.number, "epochs trained again", str(again), reason))
        running.epochs = event.epoch
        self._listeners.epoch_ended(running.plan, event)
        if self._phase.report(event):
            self._ask_to_stop(event.number, StopCause.PRUNED)

    def _take_sample(self, event: HardwareSample) -> None:
        if running := self._running.get(event.number):
            running.part = str(event.row.get("part") or "")
            event = replace(event, row={**event.row, **count_neighbours(running, self._running.values())})
            self._control.budgets.spend(event)
            self._listeners.hardware_sampled(running.plan, event)

    def _take_result(self, result: TrialResult) -> None:
        """Handle the end of an attempt: the trial's end, unless another attempt follows."""
        running = self._running.pop(result.number)
        plan, cause, seconds = running.plan, running.stop_cause, self._deadlines.end(result.number)
        result = with_last_micro_batching(result, running.micro_batching)
        self._memory.end(plan.number)
        ran_out = result.failure is not None and result.failure.kind is FailureKind.OUT_OF_MEMORY
        shared = self._sharing.end(plan.number, ran_out)
        if cause is StopCause.PRUNED or result.outcome is Outcome.COMPLETED:
            self._end(plan, result, cause is StopCause.PRUNED)
            return
        if isinstance(cause, Failure):
            result = failed(plan.number, cause.kind, cause.message, result.seconds)
        attempt = EndedAttempt(plan.attempt, *describe_end(result, cause), running.epochs, round(seconds, 3))
        self._ended[plan.number].append(attempt)
        if cause is StopCause.SUSPENDED:
            self._suspend(plan, attempt)
        elif isinstance(cause, StopCause) and result.outcome is Outcome.PRUNED:
            self._start_again(plan, attempt, queue_again(plan, cause))
        else:
            following = find_next_attempt(plan, running.slot, result, self._ended[plan.number], shared)
            if isinstance(following, TrialResult):
                self._end(plan, following)
                return
            if result.failure and result.failure.kind is FailureKind.DISK_FULL:
                self._control.disk.note_full()
            self._start_again(plan, attempt, following)

    def _start_again(self, plan: TrialPlan, attempt: EndedAttempt, following: NextAttempt) -> None:
        self._listeners.decided(following.decision)
        self._listeners.attempt_ended(plan, attempt, following.words)
        self._again.append(following.plan)

    def _suspend(self, plan: TrialPlan, attempt: EndedAttempt) -> None:
        """Let the trial wait: for the end of the pause, or in the study for the next run."""
        self._listeners.attempt_ended(plan, attempt, "")
        if self._control.stop:
            self._phase.suspend(plan.number)
        else:
            self._again.append(resumed(plan))

    def _end(self, plan: TrialPlan, result: TrialResult, pruned: bool = False) -> None:
        result = check_result(result, self._run.job.objective.metric, pruned)
        result = replace(result, attempts=plan.attempt, hardware=self._run.summarise(plan))
        self._listeners.trial_ended(plan, result)
        self._phase.finish(result)
        self._control.judge(plan, result, max((attempt.epochs for attempt in self._ended[plan.number]), default=0))

    def _abandon(self) -> None:
        """Leave running trials, and those that were to run again, to the next run of the search."""
        self._engine.close()
        for number, running in self._running.items():
            seconds = round(self._deadlines.end(number), 3)
            message = "the search ended while this trial ran"
            attempt = EndedAttempt(running.plan.attempt, "suspended", message, running.epochs, seconds)
            self._listeners.attempt_ended(running.plan, attempt, "")
            self._phase.suspend(number)
        for plan in self._again:
            self._phase.suspend(plan.number)

    def _show(self) -> None:
        outcomes, total = self._phase.ended(), self._phase.total()
        counts = {outcome: outcomes.count(outcome) for outcome in Outcome}
        fresh = len(outcomes) - self._ended_before
        now, paused = self._run.clock(), self._control.paused
        if paused:
            self._started += now - self._shown  # a pause says nothing about the pace
        self._shown = now
        left = (now - self._started) / fresh * (total - len(outcomes)) if fresh else None
        doing = {number: running.part for number, running in self._running.items()}
        phase, running = self._phase.phase, len(self._running)
        best = self._run.job.best(phase)
        self._listeners.progress(Progress(phase, total, counts, running, best, left, paused, doing))


_TAKE: Mapping[type, Callable[[Loop, Any], None]] = {
    SignOfLife: lambda loop, sign: None,  # only the deadlines use it
    MicroBatching: Loop._take_micro_batching,
    EpochRecord: Loop._take_epoch,
    HardwareSample: Loop._take_sample,
    Decision: lambda loop, decision: loop._listeners.decided(decision),
    TrialResult: Loop._take_result,
}
