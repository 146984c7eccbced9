"""The study: proposes configurations, prunes, stores the results, and continues after a kill.

It consists of two Optuna studies, so that the sampler and the pruner never mix short and long trainings: NAME holds the
exploration, NAME with the hall-of-fame suffix the long trainings. A trial never changes its number, no configuration is
trained twice, only finite values are results, and no Optuna type leaves this module.

The caller sees to it that one driver at a time opens a study: what is found running belongs to a driver that died.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage

import mloptimizer
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import Wait
from mloptimizer.core.nouns import DatasetInfo, Failure, FailureKind, Objective, Outcome, Phase, TrialResult
from mloptimizer.core.study_names import HALL_OF_FAME_SUFFIX, check_study_name
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.study.answers import Answers
from mloptimizer.study.earlier import EarlierStudy
from mloptimizer.study.journal import together
from mloptimizer.study.phase_study import PhaseStudy, create_study, failure_facts, has_study
from mloptimizer.study.pruning import make_pruner
from mloptimizer.study.samplers import make_sampler
from mloptimizer.study.storage import open_storage, storage_errors, storage_place
from mloptimizer.study.suggestions import Drawn, ParameterNames, Suggestion, draw_configuration, draw_unseen
from mloptimizer.study.tally import Ended
from mloptimizer.study.trials import TrialSummary, summarize
from mloptimizer.study.warm_start import Receiver, WarmStart, import_trials, record_dataset

_TRIES = 4  # proposals of the sampler before a configuration is drawn at random


def open_study(
    url: str, journal: Path, name: str, settings: Settings, seed: int, objective: Objective, *, wait: Wait | None = None
) -> "Study":
    """Return the study, new or ready to continue.

    Trials that a dead driver left running wait for `resume`, as interrupted ones do.

    Args:
        url: storage URL or path of a journal; empty: the workspace's `journal`.
        wait: called before each retry of an operation while the disk is full or the server cannot be reached.

    Raises:
        UsageError: the storage cannot be opened, the sampler is not installed, or the study ranks by another objective.
        RunError: the storage failed.
    """
    make_sampler(settings, seed)  # refuses one that is not installed before anything is created
    storage = open_storage(url, journal, wait=wait)
    with storage_errors(url, journal):
        facts = {"objective": objective.metric, "seed": seed, "mloptimizer": mloptimizer.__version__}
        place = storage_place(url, journal)
        is_new = create_study(storage, check_study_name(name), objective.maximize, facts, place)
        study = Study(url, journal, storage, name, is_new)
        if (stored := study.attributes.get("objective")) != objective.metric:
            raise UsageError(
                f"study '{name}': ranks its trials by {stored}, not by {objective.metric}. "
                f"Continue with --set objective={stored}, or choose another study name."
            )
        study.prepare(settings, seed)
        return study


class Study:
    """A study in its storage; every method raises `RunError` or `UsageError` if the storage fails."""

    def __init__(self, url: str, journal: Path, storage: BaseStorage, name: str, is_new: bool = False) -> None:
        self.name, self.is_new = name, is_new
        self._url, self._journal, self._storage = url, journal, storage
        self._exploration = PhaseStudy(storage, name, Phase.EXPLORATION)
        self._has_hall = has_study(storage, name + HALL_OF_FAME_SUFFIX)
        self._hall = self._load_hall()
        self._names = ParameterNames()
        self.given_up: list[tuple[Phase, TrialResult]] = []  # by `prepare`: results without a record
        self._seen: dict[str, int] = {}  # trial number by key of the configurations that are running or done
        self._exhausted: frozenset[str] = frozenset()  # spaces without a new configuration
        self._random = random.Random(0)

    def prepare(self, settings: Settings, seed: int) -> None:
        """Take up the trials of an earlier driver, and get ready to propose."""
        self._exploration.note_value("exploration_epochs", settings.exploration_epochs)
        for study in (self._exploration, self._hall):
            self.given_up += [(study.phase, result) for result in study.queue_leftovers()]
        trials = self._exploration.frozen_trials()
        for trial in trials:
            self._names.learn(trial.distributions)
        self._seen = self._exploration.tried()
        # A sampler that starts again with the same seed would propose its first trials again.
        drawn = random.Random(f"{seed}:{len(trials)}").randrange(2**31) if trials else seed
        self._random = random.Random(drawn)
        optuna_study, history = self._exploration.optuna, self._exploration.history
        optuna_study.sampler = make_sampler(settings, drawn, history)
        optuna_study.pruner = make_pruner(settings, history)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Facts about the study: objective, seed, mloptimizer (its version), dataset (its name), …"""
        with self._guard():
            return self._exploration.optuna.user_attrs

    def ask(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> Suggestion | None:
        """Return the next configuration; call `resume` for interrupted trials first.

        When no configuration is new any more, the trial ends at once with the result of an equal one; None if some
        trials are still running then.
        """
        names = frozenset(space.name for space in spaces)
        if names == self._exhausted and self._exploration.is_running:
            return None
        with self._guard(), together(self._storage):
            record_dataset(self._exploration, self.name, dataset)
            for _ in range(_TRIES if names != self._exhausted else 0):
                trial, drawn, twin = self._propose(spaces, dataset)
                if twin is None:
                    return self._start(trial, drawn)
                self._exploration.tell(trial, Outcome.FAILED, space=drawn.space, duplicate_of=twin)
            if names != self._exhausted:
                if params := draw_unseen(spaces, dataset, self._names, self._seen, self._random):
                    self._exploration.optuna.enqueue_trial(dict(params))
                else:
                    self._exhausted = names
                    if self._exploration.is_running:
                        return None
            trial, drawn, twin = self._propose(spaces, dataset)
            return self._start(trial, drawn) if twin is None else self._reuse(trial, drawn, twin)

    def _propose(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> tuple[optuna.Trial, Drawn, int | None]:
        """Return a trial with its configuration, and the number of an equal one."""
        trial = self._exploration.optuna.ask()
        with warnings.catch_warnings():  # a fixed value may be outside the range of an edited space
            warnings.filterwarnings("ignore", "Fixed parameter")
            drawn = draw_configuration(trial, spaces, dataset, self._names, self._guard)
        self._names.learn(trial.distributions)
        return trial, drawn, None if drawn.failure else self._seen.get(drawn.key)

    def _start(self, trial: optuna.Trial, drawn: Drawn) -> Suggestion:
        if drawn.failure:
            facts = {"space": drawn.space, **failure_facts(drawn.failure), "traceback": drawn.failure.traceback}
            self._exploration.tell(trial, Outcome.FAILED, **facts)
        else:
            trial.set_user_attr("space", drawn.space)
            trial.set_user_attr("params", dict(drawn.params))
            self._seen[drawn.key] = trial.number
            self._exploration.start(trial.number, trial)
        return Suggestion(trial.number, drawn.space, drawn.params, failure=drawn.failure)

    def _reuse(self, trial: optuna.Trial, drawn: Drawn, number: int) -> Suggestion | None:
        twin = summarize(self._exploration.history.trial(number), Phase.EXPLORATION)
        if twin.outcome is None:
            self._exploration.tell(trial, Outcome.FAILED, space=drawn.space, duplicate_of=number)
            return None
        facts: dict[str, Any] = {"space": drawn.space, "params": dict(drawn.params), "reused_from": number}
        if twin.value is None:
            failure = twin.failure or Failure(FailureKind.ERROR, f"trial {number} with the same parameters failed")
            self._exploration.tell(trial, Outcome.FAILED, **facts, **failure_facts(failure))
            return Suggestion(trial.number, drawn.space, drawn.params, None, number, failure)
        if twin.outcome is Outcome.PRUNED:
            trial.report(twin.value, twin.epochs)
        self._exploration.tell(trial, twin.outcome, twin.value, **facts, metrics=dict(twin.metrics))
        return Suggestion(trial.number, drawn.space, drawn.params, twin.value, number)

    def unfinished(self, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return the interrupted trials of the phase, which wait for `resume`."""
        with self._guard():
            return self._study(phase).unfinished()

    def resume(self, number: int, phase: Phase = Phase.EXPLORATION) -> bool:
        """Let an interrupted trial run again under its number; False if no such trial waits."""
        with self._guard():
            return self._study(phase).resume(number)

    def suspend(self, number: int, phase: Phase = Phase.EXPLORATION) -> None:
        """Let a running trial wait for `resume`, by this driver or another."""
        with self._guard():
            self._study(phase).suspend(number)

    def give_up(self, number: int, phase: Phase, message: str) -> None:
        """End a waiting trial as interrupted: nobody is going to resume it."""
        with self._guard():
            self._study(phase).give_up(number, message)

    def start_hall_of_fame(self, number: int) -> None:
        """Record that the long training of an explored trial starts."""
        with self._guard():
            if not self._has_hall:
                name, place = self.name + HALL_OF_FAME_SUFFIX, storage_place(self._url, self._journal)
                attributes = self._exploration.optuna.user_attrs
                create_study(self._storage, name, self._exploration.maximizes, attributes, place)
                self._has_hall = True
                self._hall = self._load_hall()
            explored = self._exploration.history.trial(number)
            facts = {"trial": number, **{name: explored.user_attrs[name] for name in ("space", "params")}}
            self._hall.optuna.enqueue_trial(explored.params, user_attrs=facts)
            self._hall.start(number, self._hall.optuna.ask(explored.distributions))

    def report(self, number: int, epoch: int, value: float, phase: Phase = Phase.EXPLORATION) -> bool:
        """Store the objective of an epoch, counted from 1; return whether to prune the trial (not in the hall).

        Trials that are not running, values that are not finite and repeated epochs are ignored.
        """
        with self._guard(), together(self._storage, syncs=False):  # as the record of the epoch
            return self._study(phase).report(number, epoch, value)

    def finish(self, result: TrialResult, phase: Phase = Phase.EXPLORATION) -> None:
        """Store the result of a running trial. Raises ValueError: the trial is not running."""
        with self._guard(), together(self._storage):
            self._study(phase).finish(result)

    def trials(self, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return all trials of the phase in the order in which they were proposed."""
        with self._guard():
            return self._study(phase).trials()

    def best(self, n: int, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return at most n completed trials, the best first, then by number; without reused results."""
        with self._guard():
            return self._study(phase).tally.best(n)

    def ended(self, phase: Phase = Phase.EXPLORATION) -> Ended:
        """Return how many trials count as done, by outcome, at a cost that does not depend on their number."""
        return self._study(phase).tally

    def count_since_best(self) -> int:
        """Return how many trials of the exploration are done that were proposed after its best one."""
        return self._exploration.tally.count_since_best()

    def trial(self, number: int) -> TrialSummary:
        """Return a trial of the exploration."""
        with self._guard():
            return summarize(self._exploration.history.trial(number), Phase.EXPLORATION)

    def _study(self, phase: Phase) -> PhaseStudy:
        return self._exploration if phase is Phase.EXPLORATION else self._hall

    def _load_hall(self) -> PhaseStudy:
        storage, name = self._storage, self.name + HALL_OF_FAME_SUFFIX
        if not self._has_hall:  # an empty study in memory takes its place until the first long training starts
            storage = InMemoryStorage()
            optuna.create_study(storage=storage, study_name=name)
        hall = PhaseStudy(storage, name, Phase.HALL_OF_FAME)
        hall.optuna.sampler, hall.optuna.pruner = RandomSampler(seed=0), NopPruner()  # every value is given
        return hall

    def _guard(self) -> AbstractContextManager[None]:
        return storage_errors(self._url, self._journal)

    def warm_start(
        self, earlier: EarlierStudy, spaces: Sequence[SearchSpace], dataset: DatasetInfo, best: int
    ) -> WarmStart:
        """Import the fitting trials of an earlier study, each once, and try their best configurations first."""
        with self._guard():
            record_dataset(self._exploration, self.name, dataset)
            return import_trials(self._receiver(spaces, dataset), earlier, best)

    def enqueue(self, configurations: Sequence[Answers], spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> int:
        """Try these configurations first, unless they were tried or already wait; return how many are new.

        Raises:
            UsageError: one of them does not fit its space.
        """
        with self._guard():
            record_dataset(self._exploration, self.name, dataset)
            receiver = self._receiver(spaces, dataset)
            return sum(receiver.enqueue(answers) for answers in configurations)

    def _receiver(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> Receiver:
        return Receiver(self._exploration, self._names, self._seen.keys(), spaces, dataset)
