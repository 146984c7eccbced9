"""A study continues after a kill with what was left unfinished, and refuses what does not belong to it."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Params, Phase, TrialResult, failed
from mloptimizer.spaces.space_files import Suggest
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.trials import TrialStatus
from tests.study.small_studies import (
    DATASET,
    FEW,
    WIDE,
    ask,
    complete,
    counts,
    explore_and_enter,
    open_,
    outcomes,
    space,
)

KILLED = """
import sys, time
from pathlib import Path
from tests.study.small_studies import WIDE, ask, complete, open_
study = open_(Path(sys.argv[1]))
complete(study, ask(study, WIDE), 0.5)
print([dict(ask(study, WIDE).params) for _ in range(2)], flush=True)
time.sleep(600)
"""


def test_a_killed_driver_leaves_a_study_that_continues_with_its_running_trials(journal: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as driver:
        assert driver.stdout
        running = eval(driver.stdout.readline(), {})
        driver.send_signal(signal.SIGKILL)
    study = open_(journal)
    assert [trial.status for trial in study.trials()[-2:]] == [TrialStatus.WAITING] * 2
    assert counts(study)["done"] == 1
    assert [trial.params for trial in study.unfinished()] == running
    for trial in study.unfinished():
        assert study.resume(trial.number)
        complete(study, trial, 0.25)
    assert [trial.number for trial in study.trials()] == [0, 1, 2]
    assert ask(study, WIDE).number == 3


def test_a_trial_that_was_suspended_keeps_number_parameters_and_epochs(journal: Path) -> None:
    study = open_(journal)
    suggestion = ask(study, WIDE)
    study.report(suggestion.number, 1, 0.25)
    study.suspend(suggestion.number)
    assert outcomes(study) == [] and counts(study)["running"] == 0
    study = open_(journal)
    (trial,) = study.unfinished()
    assert (trial.number, trial.params, trial.epochs) == (0, suggestion.params, 1)
    assert study.resume(0)
    study.report(0, 1, 0.9)  # trained again: it counts as it was
    study.report(0, 2, 0.5)
    complete(study, suggestion, 0.5)
    stored = optuna.load_study(study_name="s", storage=open_storage("", journal)).trials
    assert [trial.intermediate_values for trial in stored] == [{1: 0.25, 2: 0.5}]
    assert ask(open_(journal), WIDE).params != suggestion.params


def kill_while_it_runs(journal: Path, report: int | None = None) -> TrialStatus:
    """Take up trial 0, and die; return how it stands for the next driver."""
    study = open_(journal)
    assert study.resume(0)
    if report:
        study.report(0, report, 0.5)
    return open_(journal).trials()[0].status


def test_a_trial_that_takes_every_driver_down_is_given_up(journal: Path) -> None:
    ask(open_(journal), WIDE)
    stands = [kill_while_it_runs(journal) for _ in range(9)]
    assert stands == [TrialStatus.WAITING] * 8 + [TrialStatus.FAILED]
    assert open_(journal).trials()[0].failure.message == "the search died 10 times while this trial ran"


def test_a_trial_that_makes_progress_is_never_given_up(journal: Path) -> None:
    ask(open_(journal), WIDE)
    assert {kill_while_it_runs(journal, epoch) for epoch in range(1, 12)} == {TrialStatus.WAITING}


def test_a_trial_that_was_cut_off_before_it_had_parameters_is_not_done(journal: Path) -> None:
    open_(journal)
    optuna.load_study(study_name="s", storage=open_storage("", journal)).ask()
    study = open_(journal)
    assert [trial.status for trial in study.trials()] == [TrialStatus.INTERRUPTED]
    assert (study.unfinished(), outcomes(study)) == ([], [])


def test_a_continued_study_draws_other_configurations_than_the_first_run(journal: Path) -> None:
    first = open_(journal)
    before = []
    for _ in range(4):
        before.append(suggestion := ask(first, WIDE))
        complete(first, suggestion, 0.5)
    second = open_(journal)
    after = [ask(second, WIDE).params for _ in range(4)]
    assert all(suggestion.params not in after for suggestion in before)
    assert TrialStatus.DUPLICATE not in {trial.status for trial in second.trials()}  # not even tried


def test_what_was_tried_is_known_after_continuing(journal: Path) -> None:
    first = open_(journal)
    for _ in range(3):
        complete(first, ask(first, FEW), 0.5)
    assert ask(open_(journal), FEW).reused == 0.5


def test_another_objective_is_refused(journal: Path) -> None:
    open_(journal)
    with pytest.raises(UsageError, match=r"^study 's': ranks its trials by val_accuracy.*--set objective=val_accuracy"):
        open_(journal, metric="val_loss")


def test_another_data_set_is_refused(study: Study) -> None:
    ask(study, WIDE)
    with pytest.raises(UsageError, match="searches digits, not mnist"):
        study.ask(WIDE, dataclasses.replace(DATASET, name="mnist"))


def test_a_study_of_someone_else_is_refused(journal: Path) -> None:
    optuna.create_study(storage=open_storage("", journal), study_name="s", direction="maximize")
    with pytest.raises(UsageError, match="was not made by mloptimizer"):
        open_(journal)


def test_a_configuration_that_failed_for_its_spaces_fault_is_tried_again_when_the_study_goes_on(journal: Path) -> None:
    only = [space(lambda t, _: {"x": t.suggest_int("x", 1, 1)})]
    study = open_(journal)
    study.finish(failed(ask(study, only).number, FailureKind.SPACE_ERROR, "no such layer"))
    assert ask(study, only).failure is not None  # in the same run, its text is the same
    continued = open_(journal)
    again = ask(continued, only)
    assert (again.failure, again.reused_from) == (None, None)
    complete(continued, again, 0.5)
    assert ask(open_(journal), only).reused == 0.5


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_a_choice_keeps_its_name_whatever_it_is_made_of(journal: Path) -> None:
    """Storages keep JSON, of which a tuple comes back as a list, and a number of NumPy's as a plain one."""
    asked: list[object] = []

    def sample(trial: Suggest, _: DatasetInfo) -> Params:
        kernel = trial.suggest_categorical("kernel", [(3, 3), (5, (5, 7))])
        rate = trial.suggest_categorical("rate", np.logspace(-3, -1, 3))
        flag = trial.suggest_categorical("flag", (True, 1, None, "1"))
        asked.extend([kernel, rate, flag])
        return {
            "kernel": kernel[0],
            "rate": float(rate),
            "flag": str(flag),
            "width": trial.suggest_int("width", 1, 999),
        }

    for _ in range(3):
        study = open_(journal)
        for _ in range(3):
            complete(study, ask(study, [space(sample)]), 0.5)
    kinds = {tuple, np.float64, bool, int, str, type(None)}
    assert {type(value) for value in asked} <= kinds, "the space gets its own choices"
    stored = optuna.load_study(study_name="s", storage=open_storage("", journal)).trials
    assert {name for trial in stored for name in trial.params} == {
        "space",
        *(f"own.{name}" for name in ("kernel", "rate", "flag", "width")),
    }


def test_a_study_made_anew_under_a_deleted_name_begins_empty(journal: Path) -> None:
    study = open_(journal)
    number = explore_and_enter(study).number
    study.finish(TrialResult(number, Outcome.COMPLETED, 0.9, 1.0), Phase.HALL_OF_FAME)
    assert study.is_new and not open_(journal).is_new
    optuna.delete_study(study_name="s", storage=open_storage("", journal))
    anew = open_(journal)
    assert anew.is_new
    assert (anew.trials(), anew.trials(Phase.HALL_OF_FAME)) == ([], [])
    explore_and_enter(anew)
    assert len(anew.trials(Phase.HALL_OF_FAME)) == 1


def test_a_foreign_study_is_never_taken_for_the_long_trainings(journal: Path) -> None:
    storage = open_storage("", journal)
    foreign = optuna.create_study(study_name="s-hall-of-fame", storage=storage)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(UsageError, match="'s-hall-of-fame' was not made by mloptimizer"):
        open_(journal)
    assert [study.study_name for study in storage.get_all_studies()] == ["s-hall-of-fame"]
    optuna.delete_study(study_name="s-hall-of-fame", storage=storage)
    study = open_(journal)
    optuna.create_study(study_name="s-hall-of-fame", storage=storage)  # while the exploration runs
    with pytest.raises(UsageError, match="'s-hall-of-fame' was not made by mloptimizer"):
        explore_and_enter(study)
