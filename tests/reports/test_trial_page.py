import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import EndedAttempt
from mloptimizer.core.nouns import FailureKind, Outcome, Phase, TrialResult, failed
from mloptimizer.reports.terminal.trial_page import trial_report
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def test_an_unknown_trial_is_refused_with_the_known_ones(workspace: Workspace, study: StudyWriter) -> None:
    with pytest.raises(UsageError, match=r"TRIAL 9: study 'test' has no such trial\. Known: none yet\."):
        trial_report(workspace, "test", 9)
    for number in (0, 1, 2):
        study.complete(number, 0.5)
    with pytest.raises(UsageError, match=r"Known: 0 to 2\."):
        trial_report(workspace, "test", 9)


def test_plan_parameters_time_and_files_are_shown(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5, space="resnet", params={"width": 16, "activation": "gelu"}, seed=11)
    report = text_of(trial_report(workspace, "test", 0), 300)
    for words in (
        "resnet",
        "width 16, activation gelu",
        "2 of 3, from new weights",
        "11",
        "3.0 s (fit 2.5 s, of fit: first step 1.5 s, of fit: checkpoint 0.5 s)",
    ):
        assert words in report
    assert "trial_00000: epochs.jsonl, plan.json, result.json" in report


def test_several_attempts_and_the_micro_batch_are_shown(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    report = text_of(trial_report(workspace, "test", 0))
    assert "attempts  " not in report and "micro-batch  " not in report
    study.train(0, [0.5], attempt=3)
    study.store.add_attempt(study.plan(0), EndedAttempt(1, "out_of_memory", "no room", 2, 35.0))
    study.store.add_attempt(study.plan(0), EndedAttempt(2, "suspended", "", 1, 5.0))
    study.end(TrialResult(0, Outcome.COMPLETED, 0.5, 1.0, micro_batch=16))
    report = " ".join(text_of(trial_report(workspace, "test", 0)).split())
    assert "attempts 3; time and state are those of the last 1: out of memory after 35.0 s and 2 epochs" in report
    assert "no room 2: suspended after 5.0 s and 1 epoch micro-batch 16 images per GPU and pass" in report


def test_the_best_epoch_of_the_curve_is_marked(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.2, 0.6, 0.4])
    report = text_of(trial_report(workspace, "test", 0))
    assert "▁█▅  0.2000 to 0.6000" in report
    assert [line.split()[1] for line in report.splitlines() if line.strip().startswith("★")] == ["2"]


def test_a_long_curve_is_thinned_to_first_best_and_last_epoch(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.9 if epoch == 38 else epoch / 200 for epoch in range(1, 101)])
    lines = text_of(trial_report(workspace, "test", 0)).replace("★", "").splitlines()
    shown = [int(words[0]) for line in lines if (words := line.split()) and words[0].isdigit()]
    assert {1, 38, 100} <= set(shown)
    assert len(shown) <= 13
    assert any(f"{len(shown)} of 100 epochs" in line for line in lines)


def test_both_phases_are_shown_and_the_winner_is_named(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    study.complete(0, 0.7, Phase.HALL_OF_FAME, initial_weights="trial_00000/model.weights.h5")
    report = text_of(trial_report(workspace, "test", 0))
    assert "★ best so far" in report
    assert report.index("Exploration") < report.index("Hall of fame")
    assert "from the exploration's weights" in report


def test_a_failure_shows_its_kind_message_and_traceback_as_they_are(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [])
    study.end(failed(0, FailureKind.SPACE_ERROR, "[/red] width [16]", 1.0, 'File "space.py", line 3\nValueError: [x]'))
    report = text_of(trial_report(workspace, "test", 0))
    assert "failed: space error: [/red] width [16]" in report
    assert 'File "space.py", line 3' in report
    assert "ValueError: [x]" in report


def test_metrics_that_were_not_finite_are_dashes(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [float("nan")])
    report = text_of(trial_report(workspace, "test", 0))
    assert "no finite value" in report
    row = next(line.split() for line in report.splitlines() if line.split()[:1] == ["1"])
    assert row[3:5] == ["–", "–"]


@pytest.mark.parametrize("width", [20, 60, 100])
def test_the_report_fits_the_terminal(workspace: Workspace, study: StudyWriter, width: int) -> None:
    study.complete(0, 0.5)
    assert max(map(len, text_of(trial_report(workspace, "test", 0), width).splitlines())) <= width
