"""Is the study: proposes configurations, prunes, keeps the results, and continues after a kill.

Behind one study stand two of Optuna's, so that short and long trainings never mix in sampler and pruner: NAME holds the
exploration, NAME with the hall-of-fame suffix the long trainings. A trial keeps its number for life. No
configuration is trained twice, values that are not finite are never results, and no Optuna type leaves this module.

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
from optuna.storages import BaseStorage

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
from mloptimizer.study.samplers import make_pruner, make_sampler
from mloptimizer.study.storage import open_storage, storage_errors, storage_place
from mloptimizer.study.suggestions import Drawn, ParameterNames, Suggestion, draw_configuration, draw_unseen
from mloptimizer.study.tally import Ended
from mloptimizer.study.trials import TrialSummary, summarize
from mloptimizer.study.warm_start import Receiver, TakenOver, record_dataset, take_over

_TRIES = 4  # proposals of the sampler before a configuration is drawn at random


def open_study(
    url: str, journal: Path, name: str, settings: Settings, seed: int, objective: Objective, *, wait: Wait | None = None
) -> "Study":
    """Return the study, created where it is new, ready to continue where it is not.

    Trials that a dead driver left running wait, as those do that were cut off in an orderly way: `resume` takes them
    up.

    Args:
        url: storage URL or path of a journal; empty: the workspace's `journal`.
        wait: called before an operation is tried again, while the disk is full or the server away.

    Raises:
        UsageError: the storage cannot be opened, the sampler is not installed, or the study ranks by another objective.
        RunError: the storage failed.
    """
    make_sampler(settings, seed)  # one that is not installed is refused before anything is created
    storage = open_storage(url, journal, wait=wait)
    with storage_errors(url, journal):
        facts = {"objective": objective.metric, "seed": seed, "mloptimizer": mloptimizer.__version__}
        place = storage_place(url, journal)
        is_new = create_study(storage, check_study_name(name), objective.maximize, facts, place)
        study = Study(url, journal, storage, name, is_new)
        _check_objective(study, objective)
        study.prepare(settings, seed)
        return study


def _check_objective(study: "Study", objective: Objective) -> None:
    stored = study.attributes.get("objective")
    if stored != objective.metric:
        raise UsageError(
            f"study '{study.name}': ranks its trials by {stored}, not by {objective.metric}. "
            f"Continue with --set objective={stored}, or choose another study name."
        )


class Study:
    """A study in its storage; every method raises `RunError` or `UsageError` where the storage fails."""

    def __init__(self, url: str, journal: Path, storage: BaseStorage, name: str, is_new: bool = False) -> None:
        """For `open_study`."""
        self.name, self.is_new = name, is_new
        self._url, self._journal, self._storage = url, journal, storage
        self._exploration = PhaseStudy(storage, name, Phase.EXPLORATION)
        self._hall = self._load_hall() if has_study(storage, name + HALL_OF_FAME_SUFFIX) else None
        self._names = ParameterNames()
        self.given_up: list[tuple[Phase, TrialResult]] = []  # when it was opened; nobody has recorded their results
        self._seen: dict[str, int] = {}  # number by key of the configurations that are running or done
        self._exhausted: frozenset[str] = frozenset()  # the spaces of which every configuration is known
        self._random = random.Random(0)

    def prepare(self, settings: Settings, seed: int) -> None:
        """Take up what an earlier driver left, and be ready to propose."""
        self._exploration.note_value("exploration_epochs", settings.exploration_epochs)
        for study in filter(None, (self._exploration, self._hall)):
            self.given_up += [(study.phase, result) for result in study.queue_leftovers()]
        trials = self._exploration.frozen_trials()
        for trial in trials:
            self._names.learn(trial.distributions)
        self._seen = self._exploration.tried()
        # A sampler that starts again with the same seed would propose its first trials again.
        drawn = random.Random(f"{seed}:{len(trials)}").randrange(2**31) if trials else seed
        self._random = random.Random(drawn)
        history = self._exploration.history
        self._exploration.propose_with(make_sampler(settings, drawn, history), make_pruner(settings, history))

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What is recorded about the study: objective, seed, mloptimizer (its version), dataset (its name), …"""
        with self._guard():
            return self._exploration.attributes

    def ask(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> Suggestion | None:
        """Return the next configuration, a new one; trials that were cut off are taken up by `resume`, before this.

        Once all configurations are known, the trial ends at once with the result of its equal. None: all are known
        and some of them still run, so that there is nothing to start now.
        """
        names = frozenset(space.name for space in spaces)
        if names == self._exhausted and self._exploration.is_running:
            return None
        with self._guard(), together(self._storage):
            record_dataset(self._exploration, self.name, dataset)
            for _ in range(_TRIES if names != self._exhausted else 0):
                trial, drawn = self._propose(spaces, dataset)
                if (twin := self._find_twin(drawn)) is None:
                    return self._start(trial, drawn)
                self._exploration.tell(trial, Outcome.FAILED, space=drawn.space, duplicate_of=twin)
            if names != self._exhausted and not self._enqueue_unseen(spaces, dataset):
                self._exhausted = names
                if self._exploration.is_running:
                    return None
            trial, drawn = self._propose(spaces, dataset)
            twin = self._find_twin(drawn)
            return self._start(trial, drawn) if twin is None else self._reuse(trial, drawn, twin)

    def _propose(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> tuple[optuna.Trial, Drawn]:
        trial = self._exploration.ask()
        with warnings.catch_warnings():  # a repeated value that an edited space no longer has is taken all the same
            warnings.filterwarnings("ignore", "Fixed parameter")
            drawn = draw_configuration(trial, spaces, dataset, self._names, self._guard)
        self._names.learn(trial.distributions)
        return trial, drawn

    def _find_twin(self, drawn: Drawn) -> int | None:
        return None if drawn.failure else self._seen.get(drawn.key)

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

    def _enqueue_unseen(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> bool:
        params = draw_unseen(spaces, dataset, self._names, self._seen, self._random)
        if params is not None:
            self._exploration.enqueue(params)
        return params is not None

    def unfinished(self, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return the trials of the phase that were cut off and wait to be taken up."""
        with self._guard():
            return study.unfinished() if (study := self._study(phase)) else []

    def resume(self, number: int, phase: Phase = Phase.EXPLORATION) -> bool:
        """Take up a trial that was cut off, under its number; False: none of this number waits."""
        with self._guard():
            return (study := self._study(phase)) is not None and study.resume(number)

    def suspend(self, number: int, phase: Phase = Phase.EXPLORATION) -> None:
        """Let a running trial wait until it is taken up again, by this driver or another."""
        with self._guard():
            if study := self._study(phase):
                study.suspend(number)

    def give_up(self, number: int, phase: Phase, message: str) -> None:
        """End a trial that waits as interrupted: nobody is going to take it up."""
        with self._guard():
            if study := self._study(phase):
                study.give_up(number, message)

    def start_hall_of_fame(self, number: int) -> None:
        """Note that the long training of an explored trial starts."""
        with self._guard():
            if self._hall is None:
                name, place = self.name + HALL_OF_FAME_SUFFIX, storage_place(self._url, self._journal)
                facts = dict(self._exploration.attributes)
                create_study(self._storage, name, self._exploration.maximizes, facts, place)
                self._hall = self._load_hall()
            explored = self._exploration.history.trial(number)
            facts = {name: explored.user_attrs[name] for name in ("space", "params")}
            self._hall.enqueue(explored.params, trial=number, **facts)
            self._hall.start(number, self._hall.ask(explored.distributions))

    def report(self, number: int, epoch: int, value: float, phase: Phase = Phase.EXPLORATION) -> bool:
        """Take the objective of an epoch, counted from 1; True: the trial should be pruned, never in the hall of fame.

        Trials that are not running, values that are not finite and repeated epochs are ignored.
        """
        with self._guard(), together(self._storage, syncs=False):  # as in the record of its epochs
            study = self._study(phase)
            return study is not None and study.report(number, epoch, value)

    def finish(self, result: TrialResult, phase: Phase = Phase.EXPLORATION) -> None:
        """Take the result of a running trial. Raises ValueError: no such trial is running."""
        study = self._study(phase)
        if study is None:
            raise ValueError(f"study '{self.name}' has no phase {phase} yet")
        with self._guard(), together(self._storage):
            study.finish(result)

    def trials(self, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return all trials of the phase in the order in which they were proposed."""
        with self._guard():
            return study.trials() if (study := self._study(phase)) else []

    def best(self, n: int, phase: Phase = Phase.EXPLORATION) -> list[TrialSummary]:
        """Return at most n completed trials, the best first; of equals the lower number; reused ones are left out."""
        with self._guard():
            return study.tally.best(n) if (study := self._study(phase)) else []

    def outcomes(self, phase: Phase = Phase.EXPLORATION) -> list[Outcome]:
        """Return how the trials ended that count as done; reused ones with the outcome that they took over."""
        return [trial.outcome for trial in self.trials(phase) if trial.outcome is not None]

    def ended(self, phase: Phase = Phase.EXPLORATION) -> Ended:
        """Return how many trials count as done, and with which outcome; asking costs the same however many they are."""
        return study.tally if (study := self._study(phase)) else []

    def count_since_best(self) -> int:
        """Return how many trials of the exploration that were proposed after its best one are done."""
        return self._exploration.tally.count_since_best()

    def trial(self, number: int) -> TrialSummary:
        """Return a trial of the exploration."""
        with self._guard():
            return summarize(self._exploration.history.trial(number), Phase.EXPLORATION)

    def _study(self, phase: Phase) -> PhaseStudy | None:
        return self._exploration if phase is Phase.EXPLORATION else self._hall

    def _load_hall(self) -> PhaseStudy:
        hall = PhaseStudy(self._storage, self.name + HALL_OF_FAME_SUFFIX, Phase.HALL_OF_FAME)
        hall.propose_with(RandomSampler(seed=0), NopPruner())  # every value is given
        return hall

    def _guard(self) -> AbstractContextManager[None]:
        return storage_errors(self._url, self._journal)

    def warm_start(
        self, earlier: EarlierStudy, spaces: Sequence[SearchSpace], dataset: DatasetInfo, best: int
    ) -> TakenOver:
        """Take over an earlier study's trials that fit, each once, and try the best configurations first."""
        with self._guard():
            record_dataset(self._exploration, self.name, dataset)
            return take_over(self._receiver(spaces, dataset), earlier, best)

    def enqueue(self, configurations: Sequence[Answers], spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> int:
        """Try these configurations first, but none that has been tried or waits; return how many are new.

        Raises:
            UsageError: one of them does not fit its space.
        """
        with self._guard():
            record_dataset(self._exploration, self.name, dataset)
            receiver = self._receiver(spaces, dataset)
            return sum(receiver.enqueue(answers) for answers in configurations)

    def _receiver(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> Receiver:
        return Receiver(self._exploration, self._names, self._seen.keys(), spaces, dataset)
