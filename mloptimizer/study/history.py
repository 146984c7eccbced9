"""Keeps the trials of one study in memory for frequent readers: samplers, pruners, the loop.

It replaces the study's storage, with the same methods. It writes to the storage first, and never reads a trial again
that has ended: changes by other programs to such a trial stay unseen, because the driver is the only writer of a study.
"""

import copy
import math
from bisect import insort
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.study.optuna_internals import id_of

_ENDED = frozenset(state for state in TrialState if state.is_finished())
_WRITING = ("set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr")
_LEARNED_FROM = frozenset((TrialState.COMPLETE, TrialState.PRUNED))  # what samplers look at


@dataclass(frozen=True)
class Bounds:
    """The largest numbers of trials that a sampler sees."""

    best: int  # completed or pruned
    newest: int  # completed or pruned, by number
    running: int  # the last to start


class History:
    """An Optuna storage for one study."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.ended: list[FrozenTrial] = []  # in the order of their ends; earlier drivers' by number
        self._storage = storage
        self._sign = -1.0 if storage.get_study_directions(study_id) == [StudyDirection.MAXIMIZE] else 1.0
        self._trials: list[FrozenTrial] = []  # by number
        self._numbers: dict[int, int] = {}  # by id
        self._open: set[int] = set()  # numbers of the waiting and running ones
        self._stale: set[int] = set()  # open ones that were written to since they were read
        self._learned_from: list[int] = []  # numbers of the completed and pruned ones, sorted
        self._ranks: dict[int, tuple[int, float, float]] = {}  # of these, by number
        self._ranked: list[tuple[tuple[int, float, float], int]] = []  # ranks with numbers, the best first
        self._selected: dict[int, FrozenTrial] = {}  # ended ones, as `select` last returned them
        self._shown: Sequence[FrozenTrial] | None = None
        self._take(storage.get_all_trials(study_id, deepcopy=False))

    def __getattr__(self, name: str) -> Any:
        """Return the storage's method; one that writes to a trial also marks the trial as stale."""
        method = getattr(self._storage, name)
        if name not in _WRITING:
            return method

        def write(trial_id: int, *values: Any, **named: Any) -> None:
            method(trial_id, *values, **named)
            self._stale.add(self._numbers[trial_id])

        return write

    @contextmanager
    def showing(self, trials: Sequence[FrozenTrial]) -> Iterator[None]:
        """Within the block, return these trials to anybody who asks for all trials or for ended ones."""
        self._shown = trials
        try:
            yield
        finally:
            self._shown = None

    def select(self, bounds: Bounds) -> list[FrozenTrial]:
        """Return the trials within the bounds, by number, reduced to what TPE uses.

        An ended trial becomes a completed one whose loss is its rank: everything else that TPE reads, again for every
        parameter, serves to find that rank.
        """
        numbers = {number for _, number in self._ranked[: bounds.best]} | set(self._learned_from[-bounds.newest :])
        self._selected = {number: self._selected.get(number) or _strip(self._trials[number]) for number in numbers}
        for place, number in enumerate(sorted(numbers, key=lambda number: (self._ranks[number], number))):
            self._selected[number].values = [self._sign * place]
        running = [trial for trial in self.open_trials() if trial.state is TrialState.RUNNING]
        seen = [*self._selected.values(), *map(_strip, running[-bounds.running :])]
        return sorted(seen, key=lambda trial: trial.number)

    def open_trials(self) -> list[FrozenTrial]:
        """Return the waiting and running trials, by number."""
        for number in self._stale:
            self._trials[number] = self._storage.get_trial(id_of(self._trials[number]))
        self._stale.clear()
        return [self._trials[number] for number in sorted(self._open)]

    def trial(self, number: int) -> FrozenTrial:
        return self.get_trial(id_of(self._trials[number]))

    # The storage's methods

    def get_trial(self, trial_id: int) -> FrozenTrial:
        number = self._numbers.get(trial_id)
        if number is None or number in self._open:
            return self._storage.get_trial(trial_id)
        return self._trials[number]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self.open_trials()
        if states is None or any(state in states for state in _ENDED):
            trials = list(self._trials if self._shown is None else self._shown)
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = self._storage.create_new_trial(study_id, template_trial)
        trial = self._storage.get_trial(trial_id)
        if trial.number > len(self._trials):  # another program has added some
            self._take(self._storage.get_all_trials(study_id, deepcopy=False)[len(self._trials) :])
        else:
            self._take([trial])
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write the state; return False if the trial should start running but already does."""
        done = self._storage.set_trial_state_values(trial_id, state, values)
        if state.is_finished():
            number = self._numbers[trial_id]
            self._stale.discard(number)
            self._trials[number] = self._storage.get_trial(trial_id)
            self._open.discard(number)
            self._note_end(self._trials[number])
        else:
            self._stale.add(self._numbers[trial_id])
        return done

    def _take(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            self._numbers[id_of(trial)] = trial.number
            self._trials.append(trial)
            if trial.state.is_finished():
                self._note_end(trial)
            else:
                self._open.add(trial.number)

    def _note_end(self, trial: FrozenTrial) -> None:
        self.ended.append(trial)
        if trial.state in _LEARNED_FROM:
            insort(self._learned_from, trial.number)
            self._ranks[trial.number] = _rank(trial, self._sign)
            insort(self._ranked, (self._ranks[trial.number], trial.number))


def _rank(trial: FrozenTrial, sign: float) -> tuple[int, float, float]:
    """Return TPE's sort key of ended trials: completed, then pruned, then with a violated constraint."""
    excess = sum(value for value in trial.constraints.values() if value > 0)
    if excess > 0:
        return (2, excess, 0.0)
    if trial.state is TrialState.COMPLETE:
        return (0, sign * (trial.value or 0.0), 0.0)
    if not trial.intermediate_values:
        return (1, 1.0, 0.0)
    epoch, value = max(trial.intermediate_values.items())
    return (1, -epoch, math.inf if math.isnan(value) else sign * value)


def _strip(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial without TPE's notes on a proposal in progress: later its parameters have them."""
    shown = copy.copy(trial)
    shown.system_attrs = {}
    if trial.state.is_finished():
        shown.state, shown.intermediate_values = TrialState.COMPLETE, {}
    return shown
