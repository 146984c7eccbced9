"""The loop of a search: plans go out to slots, epochs and results come back, phase after phase.

Whatever ends the loop, every started trial has been told to the study: nothing stays running in the records. A trial
whose memory ran out, or that gave way to others, starts again as the next attempt; to the study it is one trial.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mloptimizer.attempts import complete, find_next_attempt
from mloptimizer.engines.base import Engine
from mloptimizer.hardware.memory import memory_percent
from mloptimizer.memory_watch import MemoryWatch
from mloptimizer.phases import Exploration, HallOfFame, Job, PhaseRun, Untrained, Verdict, best_of
from mloptimizer.recorder import Recorder
from mloptimizer.records import (
    DatasetInfo,
    Decision,
    Division,
    EpochRecord,
    Event,
    FailureKind,
    HardwareSample,
    Outcome,
    Phase,
    Slot,
    TrialPlan,
    TrialResult,
    failed,
)

WAIT_SECONDS = 0.5

MakeEngine = Callable[[int], Engine]
"""Returns an engine for so many trials."""

Interruptible = Callable[[], contextlib.AbstractContextManager[object]]
"""Surrounds what may be broken off by KeyboardInterrupt; outside of it an interrupt waits."""


@dataclass(frozen=True)
class Progress:
    """Where a phase stands."""

    phase: Phase
    total: int
    ended: Mapping[Outcome, int]
    running: int
    best: tuple[int, float] | None  # number and objective
    seconds_left: float | None  # estimated; None before the first trial has ended

    @property
    def done(self) -> int:
        return sum(self.ended.values())


class Observer(Protocol):
    """Is told what happens, to show it."""

    def progress(self, progress: Progress) -> None: ...

    def trial_started(self, plan: TrialPlan) -> None: ...

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None: ...

    def attempt_ended(self, plan: TrialPlan, reason: str) -> None:
        """An attempt ended and the trial will start again: why, and with what."""
        ...

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None: ...


@dataclass(frozen=True)
class SearchSummary:
    """How a search ended; `winner` is None when no trial was completed."""

    study: str
    objective: str
    dataset: DatasetInfo
    winner: int | None
    winner_phase: Phase | None
    value: float | None
    exploration: Mapping[Outcome, int]
    hall_of_fame: Mapping[Outcome, int]
    verdicts: tuple[Mapping[str, object], ...]
    seconds: float
    notes: tuple[str, ...] = ()  # what the person asked for and did not get


@dataclass
class SearchRun:
    """The parts that one run of a search works with."""

    job: Job
    make_engine: MakeEngine
    recorder: Recorder
    observer: Observer
    interruptible: Interruptible = contextlib.nullcontext
    clock: Callable[[], float] = field(default=time.monotonic)
    memory_percent: Callable[[], float] = field(default=memory_percent)  # share of the main memory in use, %


def run_search(run: SearchRun, explore_only: bool = False) -> SearchSummary:
    """Run what is left of the study's phases and return its summary.

    Raises:
        KeyboardInterrupt: inside `run.interruptible`, after every running trial was ended and recorded as interrupted.
    """
    started, job = run.clock(), run.job
    with run.interruptible():
        pass  # from here on, an interrupt waits for a place where nothing can be torn
    exploration = Exploration(job)
    _run_phase(run, exploration)
    hall = HallOfFame(job) if not explore_only else None
    if hall:
        _run_phase(run, hall)
    winner, phase = find_winner(job)
    if winner is not None and phase is not None and hall and not _was_read(job, winner, phase):
        _run_phase(run, Verdict(job, winner, phase))
    value = best_of(job, phase) if phase else None
    return SearchSummary(
        study=job.name,
        objective=job.settings.objective,
        dataset=job.dataset,
        winner=winner,
        winner_phase=phase,
        value=value[1] if value else None,
        exploration=_count(exploration),
        hall_of_fame=_count(hall) if hall else {},
        verdicts=tuple(job.store.verdicts()),
        seconds=run.clock() - started,
        notes=_note_what_is_missing(job, exploration),
    )


def find_winner(job: Job) -> tuple[int | None, Phase | None]:
    """Return the best of the hall of fame, or of the exploration where no long training was completed."""
    for phase in (Phase.HALL_OF_FAME, Phase.EXPLORATION):
        if best := best_of(job, phase):
            return best[0], phase
    return None, None


def _note_what_is_missing(job: Job, exploration: Exploration) -> tuple[str, ...]:
    if job.profile_trial is None or exploration.profiled:
        return ()
    return (
        f"--profile-trial {job.profile_trial}: this run trained no such trial in its exploration; none is profiled.",
    )


def _was_read(job: Job, winner: int, phase: Phase) -> bool:
    return any((reading["trial"], reading["phase"]) == (winner, phase) for reading in job.store.verdicts())


def _count(phase: PhaseRun) -> Mapping[Outcome, int]:
    ended = phase.ended()
    return {outcome: ended.count(outcome) for outcome in Outcome}


def _run_phase(run: SearchRun, phase: PhaseRun) -> None:
    left = phase.total() - len(phase.ended())
    if left <= 0:
        return
    with contextlib.closing(run.make_engine(left)) as engine:
        _Loop(run, phase, engine).run()


class _Loop:
    """One phase on one engine."""

    def __init__(self, run: SearchRun, phase: PhaseRun, engine: Engine) -> None:
        self._run = run
        self._phase = phase
        self._engine = engine
        self._running: dict[int, tuple[TrialPlan, Slot]] = {}  # the newest last
        self._divisions: dict[int, Division] = {}  # the last that each running attempt told
        self._again: list[TrialPlan] = []  # next attempts that wait for a slot
        self._memory = MemoryWatch(run.memory_percent, run.job.settings)
        self._pruned: set[int] = set()
        self._started = run.clock()
        self._ended_before = len(phase.ended())

    def run(self) -> None:
        self._show()
        try:
            while True:
                self._relieve_memory()
                self._fill_slots()
                self._show()
                if not self._running:
                    return
                with self._run.interruptible():
                    events = self._engine.wait(WAIT_SECONDS)
                for event in events:
                    self._handle(event)
        finally:
            if self._running or self._again:
                self._abandon()

    def _relieve_memory(self) -> None:
        stop = self._memory.choose_stop(list(self._running))
        if stop is not None and stop.number is not None:
            self._run.recorder.note(stop)
            self._engine.stop_trial(stop.number)

    def _fill_slots(self) -> None:
        for slot in self._engine.idle_slots():
            if not self._memory.allows_start(len(self._running)):
                return
            plan = self._again.pop(0) if self._again else self._next_plan()
            if plan is None:
                return
            self._running[plan.number] = (plan, slot)
            self._run.recorder.start(plan, slot)
            self._run.observer.trial_started(plan)
            with self._run.interruptible():
                self._engine.start(plan, slot)

    def _next_plan(self) -> TrialPlan | None:
        while isinstance(planned := self._phase.next_plan(), Untrained):
            self._run.recorder.record_untrained(planned.plan, planned.result)
            self._run.observer.trial_ended(planned.plan, planned.result)
            self._show()
        return planned

    def _handle(self, event: Event) -> None:
        if isinstance(event, TrialResult):
            self._finish(event)
            return
        if isinstance(event, Division):
            self._divisions[event.number] = event
        if isinstance(event, EpochRecord):
            if event.number in self._pruned:
                return  # it went on for a moment after the decision
            self._run.observer.epoch_ended(self._running[event.number][0], event)
            if self._phase.report(event):
                self._pruned.add(event.number)
                self._engine.stop_trial(event.number)
        if isinstance(event, (EpochRecord, HardwareSample, Decision)):
            self._run.recorder.record(event)

    def _finish(self, result: TrialResult) -> None:
        """Take the end of an attempt: the trial's end, unless another attempt is to follow."""
        plan, slot = self._running.pop(result.number)
        result = complete(result, self._divisions.pop(result.number, None))
        gave_way = self._memory.gave_way(plan.number)
        pruned = plan.number in self._pruned
        following = result if pruned else find_next_attempt(plan, slot, result, gave_way)
        if isinstance(following, TrialResult):
            self._end(plan, following)
        else:
            self._run.recorder.note(following.decision)
            self._run.observer.attempt_ended(plan, following.words)
            self._again.append(following.plan)

    def _end(self, plan: TrialPlan, result: TrialResult) -> None:
        result = check_result(result, self._run.job.objective.metric, result.number in self._pruned)
        self._run.recorder.record(result)
        self._phase.finish(result)
        self._run.observer.trial_ended(plan, result)

    def _abandon(self) -> None:
        """Record every running trial as interrupted, so that a later run trains it again."""
        self._engine.close()
        plans = [plan for plan, _ in self._running.values()] + self._again
        self._running.clear()
        self._again.clear()
        for plan in plans:
            self._end(plan, failed(plan.number, FailureKind.INTERRUPTED, "the search was stopped while this trial ran"))

    def _show(self) -> None:
        outcomes = self._phase.ended()
        counts = {outcome: outcomes.count(outcome) for outcome in Outcome}
        total = self._phase.total()
        fresh = len(outcomes) - self._ended_before
        pace = (self._run.clock() - self._started) / fresh if fresh else None
        left = pace * (total - len(outcomes)) if pace is not None else None
        best = self._phase.best()
        self._run.observer.progress(Progress(self._phase.phase, total, counts, len(self._running), best, left))


def check_result(result: TrialResult, objective: str, pruned: bool) -> TrialResult:
    """Return the result as it counts: a pruned trial is pruned even if it was done before it heard of it, and a value
    that is not finite is a failure."""
    if result.outcome is Outcome.FAILED:
        return result
    if pruned:
        return TrialResult(result.number, Outcome.PRUNED, None, result.seconds, result.metrics, result.timings)
    if result.outcome is Outcome.COMPLETED and (result.value is None or not math.isfinite(result.value)):
        return failed(result.number, FailureKind.NON_FINITE, f"{objective} = {result.value}", result.seconds)
    return result
