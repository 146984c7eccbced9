import pytest

from mloptimizer.errors import UsageError
from mloptimizer.hardware.reader import columns
from mloptimizer.records import Phase
from mloptimizer.reports.hardware import hardware_report
from mloptimizer.workspace import Workspace
from tests.reports.study_files import MakePlan, StudyWriter, text_of


@pytest.fixture
def study(workspace: Workspace, make_plan: MakePlan) -> StudyWriter:
    return StudyWriter(workspace, make_plan)


def write_log(workspace: Workspace, number: int, gpus: int, phase: Phase = Phase.EXPLORATION, **cells: float) -> None:
    """Write rows of seconds 0, 1 and 2 in which each cell is 1, 2 and 3 times the given figure."""
    header = columns(gpus)
    lines = [",".join(header)]
    for second in range(3):
        row = {"time_utc": f"2026-01-01T00:00:0{second}Z", "seconds": second}
        row |= {name: value * (second + 1) for name, value in cells.items()}
        lines.append(",".join(str(row.get(name, "")) for name in header))
    path = workspace.hardware_log("test", number, phase)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_study_without_logs_says_so(workspace: Workspace, study: StudyWriter) -> None:
    assert "Study test has no hardware logs" in text_of(hardware_report(workspace, "test"))


def test_a_trial_without_a_log_is_an_error(workspace: Workspace, study: StudyWriter) -> None:
    with pytest.raises(UsageError, match="TRIAL 3: study 'test' has no hardware log of such a trial"):
        hardware_report(workspace, "test", 3)


def test_a_machine_without_gpus_is_told_in_words(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 0, process_cpu_percent=40.0, process_rss_mb=512.0)
    report = text_of(hardware_report(workspace, "test"))
    assert "CPU only" in report
    assert "GPU %" not in report
    row = next(line.split() for line in report.splitlines() if " exploration " in line)
    assert row == ["0", "exploration", "2.0", "s", "0.0", "s", "0.80", "1.5", "–", "–", "–"]


def test_energy_is_summed_over_trials_and_says_what_it_misses(workspace: Workspace, study: StudyWriter) -> None:
    for number in range(3):
        study.complete(number, 0.5)
    write_log(workspace, 0, 1, gpu0_energy_j=3600.0)
    write_log(workspace, 1, 1, gpu0_energy_j=7200.0)
    write_log(workspace, 2, 1)
    assert "Energy: 6.00 Wh (2 of 3 logs tell it)." in text_of(hardware_report(workspace, "test"))


def test_figures_of_several_gpus_are_joined(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 2, gpu0_utilization_percent=10.0, gpu1_utilization_percent=30.0, gpu1_memory_used_mb=512.0)
    row = next(
        line for line in text_of(hardware_report(workspace, "test"), 160).splitlines() if " exploration " in line
    )
    assert row.split()[-5:] == ["2", "40", "60", "1.5", "–"]


def test_one_trial_shows_mean_and_peak_of_every_column_of_both_phases(workspace: Workspace, study: StudyWriter) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 1, gpu0_power_w=100.0)
    write_log(workspace, 0, 1, Phase.HALL_OF_FAME, gpu0_power_w=200.0)
    report = text_of(hardware_report(workspace, "test", 0))
    rows = [line.split() for line in report.splitlines() if "gpu0_power_w" in line]
    assert rows == [["gpu0_power_w", "200.0", "300.0"], ["gpu0_power_w", "400.0", "600.0"]]
    assert "3 rows over 2.0 s" in report


def test_a_file_that_is_no_log_is_told_and_hides_no_other(workspace: Workspace, study: StudyWriter) -> None:
    for number in range(2):
        study.complete(number, 0.5)
    write_log(workspace, 0, 0, cpu_percent=10.0)
    workspace.hardware_log("test", 1).write_text("something else\n")
    report = text_of(hardware_report(workspace, "test"), 200)
    assert "trial_00001.csv: is no hardware log" in report
    assert "    20 " in report


@pytest.mark.parametrize("width", [30, 60, 100])
def test_the_table_fits_the_terminal(workspace: Workspace, study: StudyWriter, width: int) -> None:
    study.complete(0, 0.5)
    write_log(workspace, 0, 1, gpu0_power_w=100.0, gpu0_memory_used_mb=40_000.0, process_rss_mb=100_000.0)
    assert max(map(len, text_of(hardware_report(workspace, "test"), width).splitlines())) <= width
