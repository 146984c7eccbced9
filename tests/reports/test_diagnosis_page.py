import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import write_json
from mloptimizer.core.nouns import Outcome, Phase, TrialResult
from mloptimizer.reports.model.standings import read_study_record
from mloptimizer.reports.terminal.diagnosis_page import describe_main_finding, diagnosis_report, measure_idle_between
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of

TRACES = Path(__file__).parents[1] / "traces"
DONE = TrialResult(0, Outcome.COMPLETED, 0.5, 3.0, {"val_accuracy": 0.5})
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def give_log(workspace: Workspace, number: int, trace: str, phase: Phase = Phase.EXPLORATION) -> None:
    path = workspace.hardware_log("test", number, phase)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(TRACES / f"{trace}.csv", path)


def give_times(workspace: Workspace, number: int, begun: str, ended: str, logged: float, **plan: object) -> None:
    """Write when a training began and ended, and how long its log is, s."""
    folder = workspace.trial("test", number)
    for name, facts in (("plan.json", {"started_utc": begun, **plan}), ("result.json", {"ended_utc": ended})):
        write_json(folder / name, {**json.loads((folder / name).read_text()), **facts})
    result = json.loads((folder / "result.json").read_text())
    write_json(folder / "result.json", {**result, "hardware": {"duration_s": logged}})


def at(seconds: float) -> str:
    return (BEGUN + timedelta(seconds=seconds)).isoformat()


def test_a_trial_shows_findings_evidence_and_settings(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    give_log(workspace, 0, "throttled")
    give_log(workspace, 0, "healthy_gpu", Phase.HALL_OF_FAME)
    report = text_of(diagnosis_report(workspace, "test", 0), 200)
    assert "throttled: " in report
    assert " 61 % " in report and "87 °C" in report
    assert "change: precision=mixed_bfloat16" in report
    assert "hall of fame\n  Nothing found" in "\n".join(line.rstrip() for line in report.splitlines())


def test_a_study_counts_the_trainings_of_each_finding(workspace: Workspace, study: StudyWriter) -> None:
    for number, trace in enumerate(("input_bound", "healthy_cpu", "input_bound")):
        study.complete(number, 0.5)
        give_log(workspace, number, trace)
    report = text_of(diagnosis_report(workspace, "test"), 200)
    assert "input-bound in 2 of 3 trainings" in report
    assert "(trial 0, exploration)" in report


def test_the_report_says_that_it_found_nothing(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    give_log(workspace, 0, "healthy_cpu")
    assert "Nothing found in 1 training" in text_of(diagnosis_report(workspace, "test"))


def test_wrong_names_and_missing_logs_are_one_line(workspace: Workspace, study: StudyWriter) -> None:
    with pytest.raises(UsageError, match="STUDY: .*'tset'.*'test'"):
        diagnosis_report(workspace, "tset")
    with pytest.raises(UsageError, match="TRIAL 3: .*'test'"):
        diagnosis_report(workspace, "test", 3)
    assert "Study test has no hardware logs" in text_of(diagnosis_report(workspace, "test"))


def test_an_unreadable_log_is_reported_and_hides_no_other(workspace: Workspace, study: StudyWriter) -> None:
    for number in range(2):
        study.complete(number, 0.5)
    give_log(workspace, 0, "input_bound")
    workspace.hardware_log("test", 1).write_text("something else\n")
    report = text_of(diagnosis_report(workspace, "test"), 300)
    assert "input-bound in 1 of 1 training" in report
    assert "trial_00001.csv: " in report
    assert "trial_00001.csv: " in text_of(diagnosis_report(workspace, "test", 1), 300)


def test_the_main_finding_is_the_most_frequent_one(workspace: Workspace, study: StudyWriter) -> None:
    for number, findings in enumerate(("input-bound", "throttled, input-bound", "throttled", None, "throttled")):
        study.train(number, [0.5])
        study.end(replace(DONE, number=number, hardware={"rows": 3, "findings": findings}))
    said = describe_main_finding(workspace, "test")
    assert said == "Hardware: throttled in 3 of 5 trainings. Why, and what to change: mloptimizer diagnose test"


def test_a_study_without_findings_and_one_without_summaries(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    assert describe_main_finding(workspace, "test") == ""
    study.end(replace(DONE, hardware={"rows": 3, "findings": None}))
    assert "nothing found that slows the trials" in describe_main_finding(workspace, "test")


def test_a_recorded_search_of_short_trials_idles_between_them(workspace: Workspace, study: StudyWriter) -> None:
    recorded = json.loads((TRACES / "short_trials.json").read_text())
    for number, times in enumerate(recorded):
        study.complete(number, 0.5)
        give_times(workspace, number, times["started_utc"], times["ended_utc"], times["logged_s"])
    assert measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"] > 15
    assert "idle between trials" in describe_main_finding(workspace, "test")


@pytest.mark.parametrize(("gap", "idle"), [(20, 10.0), (17.9, 9.04), (301, 0.0)])
def test_time_between_the_trials_of_a_slot_is_idle_but_a_pause_is_not(
    workspace: Workspace, study: StudyWriter, gap: float, idle: float
) -> None:
    for number, begun in enumerate((0.0, 90 + gap)):
        study.complete(number, 0.5)
        give_times(workspace, number, at(begun), at(begun + 90), 90.0)
    assert measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"] == pytest.approx(
        idle, 0.01
    )


def test_the_start_of_a_process_is_idle_and_slots_count_separately(workspace: Workspace, study: StudyWriter) -> None:
    times = [(0.0, 100.0, "gpu0"), (0.0, 60.0, "gpu1"), (100.0, 200.0, "gpu0"), (80.0, 200.0, "gpu1")]
    for number, (begun, ended, slot) in enumerate(times):
        study.complete(number, 0.5)
        give_times(workspace, number, at(begun), at(ended), ended - begun - 5, slot={"name": slot})
    idle = measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"]
    assert idle == pytest.approx(100 * (20 + 4 * 5) / 400)


def test_a_shared_gpu_is_idle_only_while_no_trial_runs_on_it(workspace: Workspace, study: StudyWriter) -> None:
    shared = {"gpu_ids": ["GPU-1"], "gpu_trials": 4}
    times = [(0.0, 500.0, "gpu0"), (100.0, 200.0, "gpu0b"), (300.0, 400.0, "gpu0b"), (550.0, 650.0, "gpu0")]
    for number, (begun, ended, name) in enumerate(times):
        study.complete(number, 0.5)
        give_times(workspace, number, at(begun), at(ended), ended - begun, slot={"name": name, **shared})
    idle = measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"]
    assert idle == pytest.approx(100 * 50 / 850)


def test_earlier_attempts_of_a_trial_are_not_a_gap(workspace: Workspace, study: StudyWriter) -> None:
    for number, (begun, attempt) in enumerate([(0.0, 1), (100.0, 2), (200.0, 1)]):
        study.complete(number, 0.5)
        give_times(workspace, number, at(begun), at(begun + 100), 100.0, slot={"name": "gpu0"}, attempt=attempt)
    assert measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"] == 0.0


def test_an_unreadable_record_never_hides_how_the_search_ended(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    workspace.study_file("test").write_text("{")
    assert "study.json: " in describe_main_finding(workspace, "test")


def test_a_study_without_times_has_no_idle_share(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    assert math.isnan(measure_idle_between(read_study_record(workspace, "test"))["idle_between_percent"])
