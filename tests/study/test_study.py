"""A study keeps what its trials reached, ranks them, and is read by others meanwhile."""

import math
import resource
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Scalar, TrialResult
from mloptimizer.core.study_names import HALL_OF_FAME_SUFFIX
from mloptimizer.spaces.space_files import Suggest
from mloptimizer.study.earlier import list_stored_studies
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.trials import TrialStatus
from tests.study.small_studies import (
    DATASET,
    WIDE,
    ask,
    complete,
    counts,
    explore_and_enter,
    open_,
    outcomes,
    sample_few,
    space,
)


@pytest.fixture(autouse=True)
def nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


def test_the_best_come_first_in_the_direction_of_the_objective(journal: Path) -> None:
    for metric, expected in (("val_accuracy", [2, 0]), ("val_loss", [1, 0])):
        study = open_(journal, metric=metric, name=metric)
        for value in (0.5, 0.1, 0.9):
            complete(study, ask(study, WIDE), value)
        assert [trial.number for trial in study.best(2)] == expected


def test_a_trial_keeps_what_it_reached(study: Study, journal: Path) -> None:
    suggestion = ask(study, WIDE)
    study.report(suggestion.number, 1, 0.25)
    metrics = {"val_accuracy": 0.5, "val_loss": math.inf}
    study.finish(TrialResult(suggestion.number, Outcome.COMPLETED, 0.5, 12.3456, metrics))
    trial = open_(journal).trials()[0]
    assert (trial.status, trial.outcome, trial.value) == (TrialStatus.COMPLETED, Outcome.COMPLETED, 0.5)
    assert (trial.space, trial.params, trial.epochs) == ("own", suggestion.params, 1)
    assert (trial.seconds, trial.metrics, trial.failure) == (12.346, {"val_accuracy": 0.5}, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_not_finite_is_a_failure(study: Study, value: float | None) -> None:
    number = ask(study, WIDE).number
    study.finish(TrialResult(number, Outcome.COMPLETED, value, 1.0))
    trial = study.trials()[0]
    assert trial.failure and (trial.outcome, trial.failure.kind) == (Outcome.FAILED, FailureKind.NON_FINITE)
    assert study.best(1) == []


def test_reports_that_say_nothing_are_ignored(study: Study) -> None:
    number = ask(study, WIDE).number
    assert not study.report(number, 1, math.nan)
    assert not study.report(number, 1, 0.5)
    assert not study.report(number, 1, 0.7)  # the first counts
    assert not study.report(99, 1, 0.5)
    study.finish(TrialResult(number, Outcome.PRUNED, None, 1.0))
    assert (study.trials()[0].value, study.trials()[0].epochs) == (0.5, 1)


def test_a_result_without_its_trial_is_refused(study: Study) -> None:
    suggestion = ask(study, WIDE)
    complete(study, suggestion, 0.5)
    with pytest.raises(ValueError, match="trial 0 is not running"):
        complete(study, suggestion, 0.5)
    with pytest.raises(ValueError, match="not running in the phase hall_of_fame"):
        complete(study, suggestion, 0.5, Phase.HALL_OF_FAME)


def test_a_trial_that_falls_behind_is_pruned(study: Study) -> None:
    for number in range(8):
        suggestion = ask(study, WIDE)
        wishes = [study.report(suggestion.number, epoch, 0.9 - 0.1 * number) for epoch in (1, 2, 3)]
        assert wishes[0] is False
        assert wishes[1] is (number >= 5)
        complete(study, suggestion, 0.5)


def test_the_hall_of_fame_is_a_study_of_its_own_with_the_same_numbers(study: Study, journal: Path) -> None:
    suggestion = explore_and_enter(study)
    complete(study, suggestion, 0.75, Phase.HALL_OF_FAME)
    (trial,) = study.trials(Phase.HALL_OF_FAME)
    assert (trial.number, trial.params, trial.value) == (7, suggestion.params, 0.75)
    assert study.best(1, Phase.HALL_OF_FAME) == [trial]
    assert counts(study)["done"] == 8 and counts(study, Phase.HALL_OF_FAME)["done"] == 1
    stored = optuna.load_study(study_name="s" + HALL_OF_FAME_SUFFIX, storage=open_storage("", journal))
    assert set(stored.trials[0].params) == {"space", "own.rate", "own.width", "own.act"}


def test_the_hall_of_fame_never_prunes(study: Study) -> None:
    number = explore_and_enter(study).number
    assert not any(study.report(number, epoch, 0.0, Phase.HALL_OF_FAME) for epoch in range(1, 20))


def test_a_hall_of_fame_trial_that_was_cut_off_goes_on(journal: Path) -> None:
    first = open_(journal)
    suggestion = explore_and_enter(first)
    first.report(suggestion.number, 1, 0.25, Phase.HALL_OF_FAME)
    study = open_(journal)
    (trial,) = study.unfinished(Phase.HALL_OF_FAME)
    assert (trial.status, trial.outcome, trial.number) == (TrialStatus.WAITING, None, suggestion.number)
    assert study.resume(suggestion.number, Phase.HALL_OF_FAME)
    complete(study, suggestion, 0.9, Phase.HALL_OF_FAME)
    assert outcomes(study, Phase.HALL_OF_FAME) == [Outcome.COMPLETED]
    assert study.best(2, Phase.HALL_OF_FAME)[0].params == suggestion.params


def test_studies_are_listed_by_name(study: Study, journal: Path) -> None:
    complete(study, explore_and_enter(study), 0.9, Phase.HALL_OF_FAME)
    open_(journal, name="a", metric="val_loss")
    assert list_stored_studies("", journal) == ["a", "s", "s-hall-of-fame"]
    assert list_stored_studies("", journal.with_name("other")) == []


def test_a_full_disk_ends_the_run_and_is_not_taken_for_the_spaces_fault(study: Study, journal: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 20, limits[1]))
        return {"x": trial.suggest_int("x", 1, 9)}

    try:
        with pytest.raises(RunError, match="File too large"):
            study.ask([space(fill)], DATASET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.read_bytes().endswith(b"\n")  # nothing half-written stays
    complete(study, ask(study, WIDE), 0.5)  # with space again, it goes on
    assert counts(open_(journal))["completed"] == 1


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc", "random"])
@pytest.mark.parametrize("pruner", ["hyperband", "asha"])
def test_samplers_and_pruners_live_with_several_families(journal: Path, sampler: str, pruner: str) -> None:
    study = open_(journal, sampler=sampler, pruner=pruner)
    for _ in range(15):
        suggestion = ask(study, [*WIDE, space(sample_few, "few")])
        if suggestion.reused is None:
            study.report(suggestion.number, 1, 0.5)
            complete(study, suggestion, 0.5)
    assert counts(study)["done"] == 15 and counts(study)["failed"] == 0


def test_a_database_holds_a_study_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = open_(tmp_path, url)
    suggestion = explore_and_enter(study)
    running = ask(study, WIDE)
    continued = open_(tmp_path, url)
    assert [trial.number for trial in continued.unfinished(Phase.HALL_OF_FAME)] == [suggestion.number]
    assert [trial.params for trial in continued.unfinished()] == [running.params]
    assert continued.resume(running.number) and not continued.resume(running.number)
    assert continued.best(9)[-1].params == suggestion.params
