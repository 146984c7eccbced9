import pytest

from mloptimizer.core.nouns import FailureKind, Outcome, Phase, TrialResult, failed
from mloptimizer.reports.terminal.study_page import study_report
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def report_of(workspace: Workspace) -> str:
    """Return the report with each run of whitespace as one space."""
    return " ".join(text_of(study_report(workspace, "test")).split())


def test_the_report_names_data_seed_and_changed_settings(workspace: Workspace, make_plan: MakePlan) -> None:
    StudyWriter(workspace, make_plan, spaces=["cnn", "resnet"], trials=12)
    report = report_of(workspace)
    assert "squares: 8×8×1 pixels, 10 classes; images: 800 train, 200 validation, 100 test" in report
    assert "settings spaces = cnn, resnet, trials = 12 seed 7" in report


def test_settings_that_are_all_defaults_are_not_listed(workspace: Workspace, study: StudyWriter) -> None:
    assert "settings all at their defaults" in report_of(workspace)


def test_outcomes_are_counted_by_phase_with_the_kinds_of_failure(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    for number, kind in enumerate([FailureKind.CRASH, FailureKind.CRASH, FailureKind.NON_FINITE], start=1):
        study.train(number, [])
        study.end(failed(number, kind, "why"))
    report = report_of(workspace)
    assert "exploration 1 completed, 3 failed (failures: 2 crash, 1 non finite)" in report
    assert "hall of fame none" in report


def test_the_winner_has_its_parameters_and_validation_metrics(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(4, 0.5, space="resnet", params={"width": 16})
    assert "trial 4 (exploration), resnet parameters width 16 validation val_accuracy 0.5" in report_of(workspace)


def test_without_a_completed_trial_there_is_no_winner_to_export(workspace: Workspace, study: StudyWriter) -> None:
    report = report_of(workspace)
    assert "winner none: no trial is completed yet" in report
    assert "export" not in report


def test_the_test_set_is_not_read_before_the_test_evaluation(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    assert "test set not read yet" in report_of(workspace)


def test_the_report_counts_the_readings_of_the_test_set(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5, Phase.HALL_OF_FAME)
    reading = TrialResult(0, Outcome.COMPLETED, None, 1.0, {"accuracy": 0.875})
    study.store.add_test_evaluation(reading, Phase.HALL_OF_FAME)
    assert "test set accuracy 0.875 (trial 0, hall of fame; the test set was read once)" in report_of(workspace)
    study.store.add_test_evaluation(reading, Phase.HALL_OF_FAME)
    assert "the last of 2 readings of the test set" in report_of(workspace)


def test_a_test_evaluation_of_an_earlier_winner_is_marked_as_such(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5, Phase.HALL_OF_FAME)
    study.complete(1, 0.9, Phase.HALL_OF_FAME)
    study.store.add_test_evaluation(TrialResult(0, Outcome.COMPLETED, None, 1.0, {"accuracy": 0.5}), Phase.HALL_OF_FAME)
    assert "(trial 0, hall of fame, which is no longer the winner;" in report_of(workspace)


def test_a_damaged_test_evaluation_is_reported_and_hides_nothing_else(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    workspace.test_evaluation_file("test").write_text("{")
    report = report_of(workspace)
    assert "test set cannot be read:" in report
    assert "trial 0" in report


def test_the_storage_and_its_password_are_not_shown(workspace: Workspace, make_plan: MakePlan) -> None:
    StudyWriter(workspace, make_plan)
    facts = workspace.study_file("test")
    facts.write_text(facts.read_text().replace('"storage": ""', '"storage": "postgresql://ann:hush@host/db"'))
    assert "hush" not in report_of(workspace)


@pytest.mark.parametrize("width", [20, 60])
def test_the_report_fits_a_narrow_terminal(workspace: Workspace, study: StudyWriter, width: int) -> None:
    study.complete(0, 0.5, params={"a_long_name_of_a_parameter": 1.0})
    assert max(map(len, text_of(study_report(workspace, "test"), width).splitlines())) <= width
