"""What a study learns from trials that ran out of memory, and what stays as if they had simply failed."""

import math
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Scalar, TrialResult, failed
from mloptimizer.spaces.space_files import Suggest
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.suggestions import Suggestion
from mloptimizer.study.trials import TrialStatus
from tests.study.small_studies import WIDE, ask, complete, counts, open_, space

LARGEST = 40  # width that fits


@pytest.fixture(autouse=True)
def nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


def run_out(study: Study, suggestion: Suggestion, memory_mb: float = 0.0) -> None:
    failure = failed(suggestion.number, FailureKind.OUT_OF_MEMORY, "no room").failure
    study.finish(TrialResult(suggestion.number, Outcome.FAILED, None, 1.0, failure=failure, memory_mb=memory_mb))


def stored_trials(journal: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage=open_storage("", journal)).trials


def test_a_memory_failure_stays_a_failure_for_everybody_but_the_sampler(study: Study, journal: Path) -> None:
    suggestion = ask(study, WIDE)
    study.report(suggestion.number, 1, 0.75)
    run_out(study, suggestion, 2048.0)
    trial = open_(journal).trials()[0]
    assert (trial.status, trial.outcome, trial.value) == (TrialStatus.FAILED, Outcome.FAILED, None)
    assert trial.failure and trial.failure.kind is FailureKind.OUT_OF_MEMORY
    assert (counts(study)["failed"], counts(study)["pruned"], study.best(1)) == (1, 0, [])
    (stored,) = stored_trials(journal)
    assert (stored.state, stored.constraints) == (optuna.trial.TrialState.PRUNED, {"memory_mb": 2048.0})


def test_an_unknown_memory_violates_the_constraint_all_the_same(study: Study, journal: Path) -> None:
    run_out(study, ask(study, WIDE))
    assert stored_trials(journal)[0].constraints == {"memory_mb": 1.0}


def test_other_trials_carry_no_constraint_and_may_be_the_best(study: Study, journal: Path) -> None:
    run_out(study, ask(study, WIDE), 100.0)
    complete(study, ask(study, WIDE), 0.5)
    study.finish(failed(ask(study, WIDE).number, FailureKind.CRASH, "gone"))
    _, best, crashed = stored_trials(journal)
    assert (best.constraints, crashed.constraints, crashed.state) == ({}, {}, optuna.trial.TrialState.FAIL)
    assert optuna.load_study(study_name="s", storage=open_storage("", journal)).best_trial.number == 1


def test_a_trial_whose_end_was_half_written_goes_on(study: Study, journal: Path) -> None:
    ask(study, WIDE)
    writer = optuna.load_study(study_name="s", storage=open_storage("", journal))
    trial = optuna.Trial(writer, writer.trials[0]._trial_id)
    trial.set_constraint("memory_mb", 7.0)
    trial.set_user_attr("outcome", "failed")
    assert open_(journal).trials()[0].status is TrialStatus.WAITING


def test_a_study_whose_memory_failures_were_told_as_failed_goes_on(journal: Path) -> None:
    number = ask(open_(journal), WIDE).number
    writer = optuna.load_study(study_name="s", storage=open_storage("", journal))
    trial = optuna.Trial(writer, writer.trials[number]._trial_id)
    for name, value in {"outcome": "failed", "failure": "out_of_memory", "message": "no room"}.items():
        trial.set_user_attr(name, value)
    writer.tell(trial, state=optuna.trial.TrialState.FAIL)
    study = open_(journal)
    for _ in range(12):
        run_out(study, ask(study, WIDE), 100.0)
    assert {(trial.status, trial.value) for trial in study.trials()} == {(TrialStatus.FAILED, None)}


def test_trials_without_reports_do_not_disturb_the_pruner(journal: Path) -> None:
    study = open_(journal, pruner_startup_trials="3")
    for _ in range(4):
        run_out(study, ask(study, WIDE), 100.0)
    for value in (0.9, 0.8, 0.7, 0.1):
        suggestion = ask(study, WIDE)
        study.report(suggestion.number, 1, value)
        assert study.report(suggestion.number, 2, value) is (value == 0.1)
        complete(study, suggestion, value)


def test_an_epoch_that_another_attempt_repeats_is_not_judged_again(study: Study) -> None:
    for _ in range(6):
        suggestion = ask(study, WIDE)
        for epoch in (2, 3):
            study.report(suggestion.number, epoch, 0.9)
        complete(study, suggestion, 0.9)
    number = ask(study, WIDE).number
    assert study.report(number, 2, 0.1)
    assert not study.report(number, 2, 0.1)
    assert study.report(number, 3, 0.1)


@pytest.mark.parametrize("sampler", ["cmaes", "qmc", "random"])
def test_samplers_that_make_no_use_of_it_say_nothing(journal: Path, sampler: str) -> None:
    study = open_(journal, sampler=sampler)
    for number in range(6):
        suggestion = ask(study, WIDE)
        run_out(study, suggestion, 9.0) if number % 2 else complete(study, suggestion, 0.5)
    assert (counts(study)["failed"], counts(study)["completed"]) == (3, 3)


def sample_wide(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {"width": trial.suggest_int("width", 1, 64), "rate": trial.suggest_float("rate", 1e-4, 1e-1, log=True)}


def too_wide_after_the_first_ten(journal: Path, kind: FailureKind, seed: int) -> int:
    """Return how many of the trials 10 to 29 are too wide, where wider is better and those that do not fit fail."""
    study, proposed = open_(journal, name="s", seed=seed), []
    for _ in range(30):
        suggestion = ask(study, [space(sample_wide)])
        width, rate = int(suggestion.params["width"]), float(suggestion.params["rate"])
        proposed.append(width > LARGEST)
        if width <= LARGEST:
            complete(study, suggestion, width / 64 - 0.2 * abs(math.log10(rate) + 2))
        else:
            failure = failed(suggestion.number, kind, "too wide").failure
            study.finish(TrialResult(suggestion.number, Outcome.FAILED, None, 1.0, failure=failure, memory_mb=width))
    return sum(proposed[10:])


def test_what_does_not_fit_is_proposed_much_less_than_what_fails_otherwise(tmp_path: Path) -> None:
    counts = {
        kind: [too_wide_after_the_first_ten(tmp_path / f"{kind}{seed}", kind, seed) for seed in (1, 2, 3)]
        for kind in (FailureKind.OUT_OF_MEMORY, FailureKind.CRASH)
    }
    assert sum(counts[FailureKind.OUT_OF_MEMORY]) <= 0.6 * sum(counts[FailureKind.CRASH]), counts
