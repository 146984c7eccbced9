"""A study continues after a kill with what was left unfinished, and refuses what does not belong to it."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from mloptimizer.errors import UsageError
from mloptimizer.records import (
    FailureKind,
    failed,
)
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.trials import TrialStatus
from tests.study.small_studies import (
    DATASET,
    FEW,
    WIDE,
    ask,
    complete,
    open_,
    sample_few,
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
    assert [trial.status for trial in study.trials()[-2:]] == [TrialStatus.INTERRUPTED] * 2
    assert study.counts().done == 1
    asked = [ask(study, WIDE) for _ in range(3)]
    assert [suggestion.params for suggestion in asked[:2]] == running
    assert [suggestion.number for suggestion in asked] == [3, 4, 5]
    assert asked[2].params not in running


def test_a_trial_that_the_person_interrupted_is_proposed_again(journal: Path) -> None:
    study = open_(journal)
    suggestion = ask(study, WIDE)
    study.finish(failed(suggestion.number, FailureKind.INTERRUPTED, "stopped"))
    assert study.outcomes() == [] and study.counts().done == 0
    study = open_(journal)
    again = ask(study, WIDE)
    assert again.params == suggestion.params and again.number == 1
    complete(study, again, 0.5)
    assert ask(open_(journal), WIDE).params != suggestion.params


def test_a_configuration_that_takes_every_driver_down_is_given_up(journal: Path) -> None:
    first = ask(open_(journal), WIDE).params
    assert ask(open_(journal), WIDE).params == first
    assert ask(open_(journal), WIDE).params == first
    assert ask(open_(journal), WIDE).params != first


def test_an_interrupted_trial_of_a_space_that_is_left_out_is_not_repeated(journal: Path) -> None:
    ask(open_(journal), WIDE)
    assert ask(open_(journal), [space(sample_few, "few")]).space == "few"


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
