import json

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Outcome, Phase, TrialResult
from mloptimizer.hardware.read.reader import column_names
from mloptimizer.reports.terminal import hardware_table as report_module
from mloptimizer.reports.terminal.hardware_table import hardware_report
from mloptimizer.reports.terminal.trial_page import trial_report
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def write_log(workspace: Workspace, number: int, gpus: int, phase: Phase = Phase.EXPLORATION, **cells: float) -> None:
    """Write rows of seconds 0, 1 and 2 in which each cell is 1, 2 and 3 times the given value."""
    header = column_names(gpus)
    lines = [",".join(header)]
    for second in range(3):
        row = {"time_utc": f"2026-01-01T00:00:0{second}Z", "seconds": second}
        row |= {name: value * (second + 1) for name, value in cells.items()}
        lines.append(",".join(str(row.get(name, "")) for name in header))
    path = workspace.hardware_log("test", number, phase)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_study_without_logs_says_so(workspace: Workspace, study: StudyWriter) -> None:
    text = text_of(hardware_report(workspace, "test"))
    assert "test" in text and len(text.splitlines()) == 1


def test_a_trial_without_a_log_is_an_error(workspace: Workspace, study: StudyWriter) -> None:
    with pytest.raises(UsageError, match="TRIAL 3: .*'test'"):
        hardware_report(workspace, "test", 3)


def test_a_machine_without_gpus_has_no_gpu_columns(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 0, process_cpu_percent=40.0, process_rss_mb=512.0)
    report = text_of(hardware_report(workspace, "test"))
    assert "GPU %" not in report
    row = next(line.split() for line in report.splitlines() if " exploration " in line)
    assert row == ["0", "exploration", "2.0", "s", "–", "–", "0.80", "1.5", "–", "0.0", "s"]


def test_the_report_names_an_unread_gpu_of_another_vendor(
    workspace: Workspace, study: StudyWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "describe_unused", lambda: "an AMD GPU is here, but unread")
    study.complete(0, 0.5)
    write_log(workspace, 0, 0, process_cpu_percent=40.0)
    for number in (None, 0):
        words = " ".join(text_of(hardware_report(workspace, "test", number)).split())
        assert "an AMD GPU is here, but unread" in words


def test_energy_is_summed_over_trials_and_missing_logs_are_counted(workspace: Workspace, study: StudyWriter) -> None:
    for number in range(3):
        study.complete(number, 0.5)
    write_log(workspace, 0, 1, gpu0_energy_j=3600.0)
    write_log(workspace, 1, 1, gpu0_energy_j=7200.0)
    write_log(workspace, 2, 1)
    assert "Energy: 6.00 Wh (known for 2 of 3 trainings)." in text_of(hardware_report(workspace, "test"))


def test_values_of_several_gpus_are_combined(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 2, gpu0_utilization_percent=10.0, gpu1_utilization_percent=30.0, gpu1_memory_used_mb=512.0)
    lines = text_of(hardware_report(workspace, "test"), 160).splitlines()
    titles, row = lines[1], next(line for line in lines if " exploration " in line)
    shown = {
        title: row[: titles.index(title) + len(title)].split()[-1] for title in ("GPU %", "GPU GB", "GPUs", "p95 %")
    }
    assert shown == {"GPU %": "40", "GPU GB": "1.5", "GPUs": "2", "p95 %": "60"}


def test_one_trial_shows_mean_and_peak_of_every_column_of_both_phases(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 1, gpu0_power_w=100.0)
    write_log(workspace, 0, 1, Phase.HALL_OF_FAME, gpu0_power_w=200.0)
    report = text_of(hardware_report(workspace, "test", 0))
    rows = [line.split() for line in report.splitlines() if "gpu0_power_w" in line]
    assert rows == [["gpu0_power_w", "200.0", "300.0"], ["gpu0_power_w", "400.0", "600.0"]]
    assert "3 rows over 2.0 s" in report


def test_a_file_that_is_not_a_log_is_reported_and_hides_no_other(workspace: Workspace, study: StudyWriter) -> None:
    for number in range(2):
        study.complete(number, 0.5)
    write_log(workspace, 0, 0, cpu_percent=10.0)
    workspace.hardware_log("test", 1).write_text("something else\n")
    report = text_of(hardware_report(workspace, "test"), 200)
    assert "trial_00001.csv: " in report
    assert "    20 " in report


@pytest.mark.parametrize("width", [30, 60, 100])
def test_the_table_fits_the_terminal(workspace: Workspace, study: StudyWriter, width: int) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 1, gpu0_power_w=100.0, gpu0_memory_used_mb=40_000.0, process_rss_mb=100_000.0)
    assert max(map(len, text_of(hardware_report(workspace, "test"), width).splitlines())) <= width


def test_an_ended_training_shows_its_record_even_without_its_log(workspace: Workspace, study: StudyWriter) -> None:
    study.train(0, [0.5])
    hardware = {
        **{"duration_s": 60.0, "gpus": 1, "gpu_utilization_percent": 14.0, "gpu_utilization_p95_percent": 41.0},
        **{"gpu_wh": 3.0, "cpu_wh": 1.0, "energy_wh": 4.0, "co2_g": 1.9, "grid_g_per_kwh": 475.0},
        **{"gpu_energy_source": "counter", "throttled_percent": 30.0, "throttle_reasons": "power limit"},
        **{"idle_s": 20.0, "idle_periods": 2, "longest_idle_s": 12.0, "first_step_s": 11.0},
        **{"findings": "compile-bound"},
    }
    study.end(TrialResult(0, Outcome.COMPLETED, 0.5, 3.0, {"val_accuracy": 0.5}, hardware=hardware))
    report = text_of(hardware_report(workspace, "test"), 200)
    assert "Energy: 4.00 Wh, 1.00 Wh of it by the CPU, estimated." in report
    assert "CO2: 1.9 g at 475 g/kWh" in report
    told = text_of(hardware_report(workspace, "test", 0), 300)
    assert "4 Wh (GPU 3 Wh by counter; CPU 1 Wh, estimated); 1.9 g CO2 at 475 g/kWh" in told
    assert "30 % of the time: power limit" in told
    assert "20.0 s in 2 periods, the longest 12.0 s" in told
    assert "busy 14 % (95th percentile 41, peak –)" in told
    assert "first step 11.0 s" in told
    shown = text_of(trial_report(workspace, "test", 0), 300)
    assert "1 min 0 s (first step 11.0 s)" in shown
    assert "compile-bound" in shown


def test_a_damaged_summary_is_no_traceback(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    path = workspace.trial("test", 0) / "result.json"
    names = ("duration_s", "gpus", "gpu_wh", "energy_wh", "co2_g", "gpu_energy_source", "idle_periods", "findings")
    hardware = dict.fromkeys(names, "nonsense")
    path.write_text(json.dumps({**json.loads(path.read_text()), "hardware": hardware}))
    for report in (hardware_report(workspace, "test"), hardware_report(workspace, "test", 0)):
        assert "0" in text_of(report)
    assert "Trial 0" in text_of(trial_report(workspace, "test", 0))
