"""Every sampler and pruner that the settings offer runs, repeats with its seed, and is silent."""

import logging
import sys
import typing
import warnings
from collections.abc import Iterator

import optuna
import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.study.pruning import make_pruner
from mloptimizer.study.samplers import make_sampler

PACKAGES = {"gp": "torch", "cmaes": "cmaes"}
PRUNERS = typing.get_args(Settings.model_fields["pruner"].annotation)
SAMPLERS = typing.get_args(Settings.model_fields["sampler"].annotation)


@pytest.fixture(autouse=True)
def nothing_is_warned_about(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def explore(settings: Settings, seed: int = 3, trials: int = 16) -> optuna.Study:
    """Run a study of two families with numbers, a choice and a branch; deeper is better."""
    sampler, pruner = make_sampler(settings, seed), make_pruner(settings)
    study = optuna.create_study(sampler=sampler, pruner=pruner, direction="maximize")
    for _ in range(trials):
        trial = study.ask()
        family = trial.suggest_categorical("space", ["a", "b"])
        depth = trial.suggest_int(f"{family}.depth", 1, 4)
        rate = trial.suggest_float(f"{family}.rate", 1e-4, 1e-1, log=True)
        if depth > 2:
            rate += trial.suggest_float(f"{family}.extra", 0.0, 1.0)
        pruned = False
        for epoch in range(1, settings.exploration_epochs + 1):
            trial.report(depth * epoch - rate, epoch)
            if pruned := trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        if not pruned:
            study.tell(trial, depth * 8.0 - rate)
    return study


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("group", [True, False])
def test_every_sampler_runs_and_repeats_with_its_seed(sampler: str, group: bool) -> None:
    if sampler in PACKAGES:
        pytest.importorskip(PACKAGES[sampler])
    settings = Settings(sampler=sampler, sampler_group=group, pruner="none")
    first, again, other = (explore(settings, seed) for seed in (3, 3, 4))
    assert [trial.params for trial in first.trials] == [trial.params for trial in again.trials]
    assert [trial.params for trial in first.trials] != [trial.params for trial in other.trials]


@pytest.mark.parametrize("sampler", PACKAGES)
def test_a_missing_package_names_the_extra(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[sampler], None)  # as if it were not installed
    with pytest.raises(UsageError, match=rf"^sampler = {sampler}: .*pip install 'mloptimizer\[{sampler}\]'"):
        make_sampler(Settings(sampler=sampler), 0)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_runs_and_all_but_none_prune(pruner: str) -> None:
    study = explore(Settings(sampler="random", pruner=pruner), trials=40)
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert bool(pruned) == (pruner not in ("none", "patient"))  # these values only rise: patience never runs out


def test_a_patient_pruner_ends_what_stopped_improving() -> None:
    study = optuna.create_study(pruner=make_pruner(Settings(pruner="patient")), direction="maximize")
    for value in (1.0, 1.0, 1.0, 1.0, 1.0):
        trial = study.ask()
        for epoch in range(1, 9):
            trial.report(value, epoch)
        study.tell(trial, value)
    trial = study.ask()
    for epoch in range(1, 9):
        trial.report(0.5 - 0.01 * epoch, epoch)
    assert trial.should_prune()


@pytest.mark.parametrize(("startup", "first_pruned"), [(0, 1), (5, 5), (8, 8)])
def test_the_median_pruner_starts_after_the_setting(startup: int, first_pruned: int) -> None:
    study = optuna.create_study(pruner=make_pruner(Settings(pruner_startup_trials=startup)), direction="maximize")
    pruned = []
    for number in range(12):
        trial = study.ask()
        trial.report(-number, 1)
        assert not trial.should_prune()  # the first epoch is never judged
        trial.report(-number, 2)
        pruned.append(trial.should_prune())
        study.tell(trial, -number)
    assert pruned.index(True) == first_pruned
