from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.core.nouns import FailureKind, Phase, failed
from mloptimizer.reports.model.standings import find_study, list_recorded_studies, read_study_record
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def test_an_empty_workspace_has_no_studies(workspace: Workspace) -> None:
    assert list_recorded_studies(workspace) == []


def test_an_unknown_study_is_refused_with_the_nearest_name(workspace: Workspace, study: StudyWriter) -> None:
    with pytest.raises(UsageError, match=r"there is no study 'tst'\. Did you mean 'test'\? Known: test\."):
        find_study(workspace, "tst")


def test_a_folder_without_study_json_is_not_a_study(workspace: Workspace, study: StudyWriter) -> None:
    (workspace.metrics / "other").mkdir()
    assert list_recorded_studies(workspace) == ["test"]


def test_there_is_no_winner_before_a_trial_is_completed(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.9])
    study.train(1, [0.8])
    study.end(failed(1, FailureKind.CRASH, "signal 9"))
    assert read_study_record(workspace, "test").winner is None


def test_the_best_exploration_leads_until_a_hall_of_fame_training_is_completed(
    workspace: Workspace, study: StudyWriter
) -> None:
    study.complete(0, 0.7)
    study.complete(1, 0.9)
    study.train(1, [0.95], Phase.HALL_OF_FAME)
    assert read_study_record(workspace, "test").winner == (1, Phase.EXPLORATION)
    study.complete(0, 0.8, Phase.HALL_OF_FAME)
    assert read_study_record(workspace, "test").winner == (0, Phase.HALL_OF_FAME)


def test_the_lowest_value_wins_where_a_loss_is_the_objective(workspace: Workspace, make_plan: MakePlan) -> None:
    study = StudyWriter(workspace, make_plan, objective="val_loss")
    study.complete(0, 0.4)
    study.complete(1, 0.3)
    assert read_study_record(workspace, "test").winner == (1, Phase.EXPLORATION)


def test_the_first_of_equal_trials_wins(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(3, 0.9)
    study.complete(2, 0.9)
    assert read_study_record(workspace, "test").winner == (2, Phase.EXPLORATION)


@pytest.mark.parametrize("file", ["plan.json", "result.json"])
def test_a_damaged_record_is_reported_and_hides_no_other(workspace: Workspace, study: StudyWriter, file: str) -> None:
    study.complete(0, 0.7)
    study.complete(1, 0.9)
    path = workspace.trial("test", 1) / file
    path.write_text(path.read_text()[:20])
    record = read_study_record(workspace, "test")
    assert record.winner == (0, Phase.EXPLORATION)
    assert f"{path}: " in record.standings[1].damage


def test_a_damaged_hall_of_fame_training_leaves_the_exploration_readable(
    workspace: Workspace, study: StudyWriter
) -> None:
    study.complete(0, 0.7)
    study.complete(0, 0.8, Phase.HALL_OF_FAME)
    (workspace.trial("test", 0, Phase.HALL_OF_FAME) / "result.json").write_text("")
    assert read_study_record(workspace, "test").winner == (0, Phase.EXPLORATION)


def test_a_training_without_a_result_runs_only_while_a_driver_lives(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.5])
    with hold_lock(workspace.driver_lock("test"), "busy"):
        record = read_study_record(workspace, "test")
        assert record.state(record.standings[0].exploration) == "running"
    record = read_study_record(workspace, "test")
    assert record.state(record.standings[0].exploration) == "unfinished"


def test_reading_leaves_every_file_as_it_was(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.7)

    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}

    before = snapshot()
    read_study_record(workspace, "test")
    assert snapshot() == before
