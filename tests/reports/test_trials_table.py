import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.core.nouns import FailureKind, Outcome, Phase, TrialResult, failed
from mloptimizer.reports.terminal.trials_table import trials_frame, trials_table
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def row_of(table: str, number: int) -> str:
    return next(line for line in table.splitlines() if line.replace("★", "").split()[:1] == [str(number)])


def test_a_row_has_space_state_value_epochs_and_time(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(3, 0.8125, space="resnet")
    row = row_of(text_of(trials_table(workspace, "test")), 3)
    assert row.split() == ["★", "3", "resnet", "completed", "0.8125", "2", "–", "3.0", "s"]


def test_a_failed_trial_is_named_by_its_kind_and_has_no_value(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [])
    study.end(failed(0, FailureKind.OUT_OF_MEMORY, "[/no] markup", 2.0))
    row = row_of(text_of(trials_table(workspace, "test")), 0)
    assert row.split() == ["0", "line", "failed:", "out", "of", "memory", "–", "0", "–", "2.0", "s"]


def test_a_pruned_and_a_running_trial_show_their_best_epoch(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.5, 0.6, 0.4])
    study.end(TrialResult(0, Outcome.PRUNED, None, 4.0))
    study.train(1, [0.3])
    with hold_lock(workspace.driver_lock("test"), "busy"):
        table = text_of(trials_table(workspace, "test"))
    assert row_of(table, 0).split()[2:] == ["pruned", "0.6000", "3", "–", "4.0", "s"]
    assert row_of(table, 1).split()[2:] == ["running", "0.3000", "1", "–", "–"]


def test_a_torn_last_epoch_is_ignored(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.5])
    with (workspace.trial("test", 0) / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 2, "val_accuracy": 0.9')
    assert row_of(text_of(trials_table(workspace, "test")), 0).split()[2:5] == ["unfinished", "0.5000", "1"]


def test_the_line_below_counts_both_phases_and_names_the_winner(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    study.complete(1, 0.6)
    study.train(2, [0.1])
    study.end(failed(2, FailureKind.CRASH, "signal 9"))
    table = text_of(trials_table(workspace, "test"))
    assert "3 trials: 2 completed, 1 failed." in table
    assert "★ best so far: trial 1 (exploration)." in table
    study.complete(0, 0.7, Phase.HALL_OF_FAME)
    table = text_of(trials_table(workspace, "test"))
    assert "Hall of fame: 1 completed." in table
    assert "★ best so far: trial 0 (hall of fame)." in table
    study.store.add_test_evaluation(TrialResult(0, Outcome.COMPLETED, 0.7, 1.0), Phase.HALL_OF_FAME)
    assert "★ winner: trial 0 (hall of fame)." in text_of(trials_table(workspace, "test"))


def test_sorted_by_value_the_hall_of_fame_comes_first_and_failures_last(
    workspace: Workspace, study: StudyWriter
) -> None:
    for number, value in enumerate([0.5, 0.9, 0.7]):
        study.complete(number, value)
    study.complete(0, 0.6, Phase.HALL_OF_FAME)
    study.train(3, [])
    study.end(failed(3, FailureKind.ERROR, "boom"))
    lines = text_of(trials_table(workspace, "test", "value")).replace("★", "").splitlines()
    assert [line.split()[0] for line in lines if line.strip()[:1].isdigit() and " line " in line] == [
        "0",
        "1",
        "2",
        "3",
    ]


def test_columns_show_the_parameters_that_vary(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5, params={"width": 16, "pooling": "max", "learning_rate": 0.01})
    study.complete(1, 0.6, params={"width": 32, "pooling": "max", "learning_rate": 0.02})
    table = text_of(trials_table(workspace, "test"), width=120)
    assert "width" in table
    assert "pooling" not in table
    assert row_of(table, 1).split()[-2:] == ["0.02", "32"]


def test_attempts_and_micro_batches_are_shown_once_a_trial_needed_several(
    workspace: Workspace, study: StudyWriter
) -> None:
    study.complete(0, 0.5)
    assert "attempts" not in text_of(trials_table(workspace, "test"))
    study.train(1, [0.5], attempt=3, accumulation_steps=4)
    study.end(TrialResult(1, Outcome.COMPLETED, 0.5, 1.0, micro_batch=16))
    table = text_of(trials_table(workspace, "test"))
    assert "attempts" in table and "batch" in table
    assert [row_of(table, number).split()[-2:] for number in (0, 1)] == [["1", "–"], ["3", "16"]]


@pytest.mark.parametrize("width", [20, 60, 80, 100])
@pytest.mark.parametrize("attempt", [1, 2])
def test_the_table_fits_the_terminal(workspace: Workspace, study: StudyWriter, width: int, attempt: int) -> None:
    names = ("learning_rate", "optimizer", "width", "stages", "a_long_name_of_a_parameter")
    study.complete(0, 0.5, space="a_long_name_of_a_space", params=dict.fromkeys(names, 1e-05), attempt=attempt)
    study.complete(1, 0.5, params=dict.fromkeys(names, "a long value"))
    assert max(map(len, text_of(trials_table(workspace, "test"), width).splitlines())) <= width


def test_a_study_without_trials_says_so(workspace: Workspace, study: StudyWriter) -> None:
    assert "0 trials: none." in text_of(trials_table(workspace, "test"))
    assert trials_frame(workspace, "test").empty


def test_an_unreadable_trial_stays_in_the_table(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    (workspace.trial("test", 0) / "plan.json").write_text("{")
    table = text_of(trials_table(workspace, "test"))
    assert "unreadable" in row_of(table, 0)
    assert "1 with unreadable files." in table


def test_a_damaged_study_file_is_one_line(workspace: Workspace, study: StudyWriter) -> None:
    workspace.study_file("test").write_text("[]")
    with pytest.raises(UsageError, match=r"study\.json: holds a JSON list, not an object"):
        trials_table(workspace, "test")


def test_the_frame_has_every_parameter_and_leaves_missing_values_empty(
    workspace: Workspace, study: StudyWriter
) -> None:
    study.complete(0, 0.5, params={"width": 16, "groups": 4})
    study.complete(0, 0.75, Phase.HALL_OF_FAME)
    study.train(1, [], params={"width": 32})
    lines = trials_frame(workspace, "test").to_csv(index=False).splitlines()
    first, second = (dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:])
    assert (first["params_width"], first["params_groups"], first["hall_of_fame_val_accuracy"]) == ("16", "4", "0.75")
    assert (first["winner"], second["winner"]) == ("True", "False")
    assert (second["params_groups"], second["val_accuracy"], second["seconds"]) == ("", "", "")
    assert (first["attempts"], first["hall_of_fame_attempts"], second["hall_of_fame_attempts"]) == ("1", "1", "")
