"""A long study answers as a short one does: from memory, from a bounded number of trials, with Optuna's decisions."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import optuna
import pytest
from hypothesis import given, settings, strategies
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import PercentilePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from mloptimizer.core.nouns import Outcome, Phase, Scalar, TrialResult
from mloptimizer.spaces.space_files import Suggest
from mloptimizer.study.bounded_sampler import BoundedSampler
from mloptimizer.study.history import Bounds, History
from mloptimizer.study.pruning import PercentileRule, interpolate
from mloptimizer.study.study import Study
from tests.study.small_studies import DATASET, WIDE, ask, complete, open_, space

SPACE: Mapping[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(["a", "b"])}


def make(direction: str = "maximize") -> tuple[optuna.Study, History]:
    storage = InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s", direction=direction)
    history = History(storage, 0)
    return optuna.load_study(study_name="s", storage=cast(BaseStorage, history)), history


def fill(study: optuna.Study, trials: int) -> None:
    study.sampler = RandomSampler(seed=1)
    for number in range(trials):
        trial = study.ask(dict(SPACE))
        trial.report(trial.params["x"], 1)
        if number % 7 == 3:
            trial.set_constraint("memory_mb", 1.0)
        state = TrialState.PRUNED if number % 3 == 0 or number % 7 == 3 else TrialState.COMPLETE
        study.tell(trial, trial.params["x"] if state is TrialState.COMPLETE else None, state)


def test_what_is_read_is_what_the_storage_has() -> None:
    study, history = make()
    fill(study, 20)
    study.enqueue_trial({"x": 0.5})
    study.ask(dict(SPACE))
    study.tell(study.ask(), state=TrialState.FAIL)
    stored = history._storage.get_all_trials(0)
    assert history.get_all_trials(0) == stored
    assert History(history._storage, 0).get_all_trials(0) == stored
    for state in TrialState:
        assert history.get_all_trials(0, states=(state,)) == [trial for trial in stored if trial.state is state]


def test_trials_that_another_program_adds_are_there_with_the_next_one() -> None:
    study, history = make()
    other = optuna.load_study(study_name="s", storage=history._storage)
    other.tell(other.ask(dict(SPACE)), 0.5)
    study.ask(dict(SPACE))
    assert [trial.number for trial in study.get_trials()] == [0, 1]


def test_within_bounds_the_best_the_newest_and_the_last_running_are_seen() -> None:
    study, history = make()
    fill(study, 60)
    study.ask(dict(SPACE))
    running = study.ask(dict(SPACE)).number
    study.ask(dict(SPACE))
    seen = [trial.number for trial in history.select(Bounds(best=5, newest=10, running=2))]
    completed = [trial for trial in study.get_trials() if trial.state is TrialState.COMPLETE]
    best = sorted(completed, key=lambda trial: -(trial.value or 0.0))[:5]
    assert seen == sorted({*range(50, 60), running, running + 1, *(trial.number for trial in best)})


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("trials", [12, 120])  # with few completed ones, pruned ones are among the good
def test_a_bounded_sampler_proposes_as_tpe_does_where_there_are_no_other_trials(direction: str, trials: int) -> None:
    study, history = make(direction)
    fill(study, trials)
    for _ in range(3):
        study.ask(dict(SPACE))
    bounds = Bounds(best=10, newest=30, running=2)
    seen = [trial.number for trial in history.select(bounds)]
    short = optuna.create_study(direction=direction)
    short.add_trials([trial for trial in study.get_trials() if trial.number in seen])
    assert {trial.state for trial in short.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}

    def propose(of: optuna.Study, sampler: object) -> list[object]:
        of.sampler = cast(BaseSampler, sampler)
        trial = of.ask()
        found = [trial.suggest_float("x", 0.0, 1.0), trial.suggest_categorical("kind", ["a", "b"])]
        of.tell(trial, state=TrialState.FAIL)
        return found

    # The newest of the running trials is the one that is being proposed.
    bounded = [propose(study, BoundedSampler(tpe(seed), history, replace(bounds, running=3))) for seed in range(5)]
    assert bounded == [propose(short, tpe(seed)) for seed in range(5)]


def tpe(seed: int) -> TPESampler:
    return TPESampler(multivariate=True, constant_liar=True, seed=seed)


def test_a_proposal_looks_at_no_more_trials_because_the_study_is_long() -> None:
    looks: list[int] = []

    class Counting(History):
        def get_all_trials(self, study_id, deepcopy=True, states=None):  # type: ignore[no-untyped-def]
            found = super().get_all_trials(study_id, deepcopy, states)
            looks.append(len(found))
            return found

    study, history = make()
    fill(study, 1000)
    counting = Counting(history._storage, 0)
    long = optuna.load_study(study_name="s", storage=cast(BaseStorage, counting))
    long.sampler = cast(BaseSampler, BoundedSampler(tpe(1), counting, Bounds(50, 100, 8)))
    long.ask(dict(SPACE))
    assert 100 <= max(looks) <= 151


@given(
    values=strategies.lists(strategies.floats(-1e6, 1e6), min_size=1, max_size=30),
    percentile=strategies.sampled_from([0.0, 25.0, 50.0, 75.0, 100.0]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_percentiles_are_those_of_numpy(values: list[float], percentile: float) -> None:
    assert interpolate(sorted(values), percentile) == float(np.nanpercentile(values, percentile))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(("percentile", "startup"), [(50.0, 5), (25.0, 5), (50.0, 0)])
def test_the_same_trials_are_pruned_as_by_optuna(direction: str, percentile: float, startup: int) -> None:
    study, history = make(direction)
    ours = PercentileRule(history, percentile, startup, first_epoch=2)
    study.pruner = PercentilePruner(percentile, startup, 2)
    noise, pruned = random.Random(4), 0
    for _ in range(80):
        trial = study.ask()
        for epoch in range(1, noise.randint(2, 6)):
            trial.report(round(noise.random(), 1), epoch)  # equal values, too
            theirs = trial.should_prune()
            assert ours.prune(study, study.get_trials(deepcopy=False)[-1]) == theirs
            if theirs:
                break
        pruned += theirs
        if theirs:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, noise.random())
    assert 10 < pruned < 80


def test_counts_and_ranks_are_the_same_after_opening_anew(tmp_path: Path) -> None:
    study = open_(tmp_path / "s.journal")
    noise = random.Random(2)
    for number in range(30):
        suggestion = ask(study, WIDE)
        if number % 5 == 4:
            study.finish(TrialResult(suggestion.number, Outcome.FAILED, None, 1.0))
        else:
            complete(study, suggestion, round(noise.random(), 1))
    ask(study, WIDE)
    for opened in (study, open_(tmp_path / "s.journal")):
        assert len(opened.ended()) == 30
        assert [opened.ended().count(outcome) for outcome in Outcome] == [24, 0, 6]
        completed = [trial for trial in opened.trials() if trial.outcome is Outcome.COMPLETED]
        ranked = sorted(completed, key=lambda trial: (-(trial.value or 0.0), trial.number))
        assert opened.best(7) == ranked[:7]
        assert opened.count_since_best() == 29 - ranked[0].number
        assert len(opened.ended(Phase.HALL_OF_FAME)) == 0


def test_nothing_better_for_long_is_counted_in_the_order_of_proposals(tmp_path: Path) -> None:
    study = open_(tmp_path / "s.journal")
    assert study.count_since_best() == 0
    suggestions = [ask(study, WIDE) for _ in range(5)]
    for suggestion, value in zip(suggestions[1:4], (0.7, 0.7, 0.2), strict=True):
        complete(study, suggestion, value)
    assert study.count_since_best() == 2  # an equal one is no better
    complete(study, suggestions[0], 0.1)  # proposed before the best
    assert study.count_since_best() == 2
    complete(study, suggestions[4], 0.8)
    assert study.count_since_best() == 0


def test_no_two_of_64_running_trials_are_equal(tmp_path: Path) -> None:
    def sample(trial: Suggest, dataset: object) -> dict[str, Scalar]:
        return {"width": trial.suggest_int("width", 1, 12), "act": trial.suggest_categorical("act", list("abcdefgh"))}

    study, running = open_(tmp_path / "s.journal"), []
    spaces = [space(sample)]
    for _ in range(64):
        running.append(ask(study, spaces))
    for _ in range(32):  # of 96 configurations, each once
        complete(study, running.pop(0), 0.5)
        running.append(ask(study, spaces))
    assert len({str(suggestion.params) for suggestion in running}) == 64
    assert len(study.trials()) >= 96


def test_a_study_in_memory_is_one_too() -> None:
    storage = InMemoryStorage()
    made = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    made.set_user_attr("objective", "val_accuracy")
    study = Study("", Path(), storage, "s")
    assert study.ask(WIDE, DATASET) is not None
