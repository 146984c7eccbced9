"""Runs what is left of a study, phase after phase, including trials that a person adds meanwhile."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mloptimizer.core.nouns import TRAINED_PHASES, DatasetInfo, Outcome, Phase
from mloptimizer.search.job import Job, PhaseRun
from mloptimizer.search.loop import Loop
from mloptimizer.search.phases import Exploration, FinalEvaluation, HallOfFame
from mloptimizer.search.search_run import SearchRun


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
    test_evaluations: tuple[Mapping[str, object], ...]
    seconds: float
    notes: tuple[str, ...] = ()  # what the person asked for and did not get, or what ended early
    hardware: str = ""  # what slows most of its trials down, in a line
    stopped: str = ""  # why the run ended before its phases were done

    @property
    def is_tested(self) -> bool:
        """Whether the winner was evaluated on the test set: until then it is the best so far."""
        return _holds(self.test_evaluations, self.winner, self.winner_phase)


def run_search(run: SearchRun) -> SearchSummary:
    """Run what is left of the study's phases and return its summary.

    Raises:
        KeyboardInterrupt: inside `run.interruptible`, when every running trial is stopped and recorded as interrupted.
    """
    started, job, control = run.clock(), run.job, run.control
    with run.interruptible():
        pass  # from here on, an interrupt waits for a place where no record can be torn
    while True:
        exploration, hall = _run_phases(run)
        if control.stop or control.stagnant or len(exploration.ended()) >= exploration.total():
            break  # otherwise trials were added while the later phases ran
    winner, value, phase = _find_winner(job)
    return SearchSummary(
        study=job.name,
        objective=job.settings.objective,
        dataset=job.dataset,
        winner=winner,
        winner_phase=phase,
        value=value,
        exploration=_count(exploration),
        hall_of_fame=_count(hall) if hall else {},
        test_evaluations=tuple(job.store.test_evaluations()),
        seconds=run.clock() - started,
        notes=_note_what_is_missing(run, exploration),
        stopped=control.stop.reason if control.stop else "",
    )


def _run_phases(run: SearchRun) -> tuple[Exploration, HallOfFame | None]:
    """Run the phases as far as the run's control allows; a winner that reached the target is still tested."""
    job, hall, exploration = run.job, None, Exploration(run.job)
    _run_phase(run, exploration)
    if not run.explore_only and not run.control.stop:
        hall = HallOfFame(job)
        _run_phase(run, hall)
    winner, _, phase = _find_winner(job)
    if run.explore_only or winner is None or phase is None or _holds(job.store.test_evaluations(), winner, phase):
        return exploration, hall
    if run.control.stop is None or run.control.stop.reached:
        with run.control.past_its_stop():
            _run_phase(run, FinalEvaluation(job, winner, phase))
    return exploration, hall


def _find_winner(job: Job) -> tuple[int | None, float | None, Phase | None]:
    """Return the best of the hall of fame, or of the exploration if no long training was completed."""
    for phase in reversed(TRAINED_PHASES):
        if best := job.best(phase):
            return *best, phase
    return None, None, None


def _note_what_is_missing(run: SearchRun, exploration: Exploration) -> tuple[str, ...]:
    notes, number = [], run.job.profile_trial
    if run.control.stagnant:
        count = run.job.settings.stop_when_stagnant
        notes.append(f"The exploration ended early: {count} trials in a row brought nothing better.")
    if number is not None and not exploration.profiled:
        notes.append(f"--profile-trial {number}: this run trained no such trial in its exploration; none is profiled.")
    return tuple(notes)


def _holds(evaluations: Sequence[Mapping[str, object]], trial: int | None, phase: Phase | None) -> bool:
    return any((one.get("trial"), one.get("phase")) == (trial, phase) for one in evaluations)


def _count(phase: PhaseRun) -> Mapping[Outcome, int]:
    ended = phase.ended()
    return {outcome: ended.count(outcome) for outcome in Outcome}


def _run_phase(run: SearchRun, phase: PhaseRun) -> None:
    left = phase.total() - len(phase.ended())
    if left <= 0:
        return
    with contextlib.closing(run.make_engine(run, left, phase.phase)) as engine:
        Loop(run, phase, engine).run()
