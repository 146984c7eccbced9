"""What a log says in a few numbers."""

from pathlib import Path

import pytest

from mloptimizer.hardware.analysis.summary import summarise_columns
from mloptimizer.hardware.analysis.trace import read_trace
from tests.hardware.logs import gpu_log, gpu_watt_hours


def test_a_summary_has_mean_peak_duration_and_energy(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_power_w": 100.0 + s, "gpu0_energy_j": 110 * s} for s in (0.0, 10.0, 20.0)]
    trace = read_trace(gpu_log(tmp_path / "log.csv", rows))
    assert (len(trace), trace.duration_s) == (3, 20.0)
    assert gpu_watt_hours(tmp_path / "log.csv") == pytest.approx(2200 / 3600)
    assert summarise_columns(trace)["gpu0_power_w"] == (110.0, 120.0)


def test_the_energies_of_all_gpus_and_of_a_continued_log_add_up(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_energy_j": 36 * s, "gpu1_power_w": 36.0} for s in (0.0, 50.0)]
    path = gpu_log(tmp_path / "log.csv", rows, gpus=2)
    assert gpu_watt_hours(gpu_log(path, rows, gpus=2)) == pytest.approx(4 * 0.5)


def test_a_log_without_gpus_has_no_energy(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0, "cpu_percent": 50.0}], gpus=0)
    assert gpu_watt_hours(path) is None
    assert summarise_columns(read_trace(path))["cpu_percent"] == (50.0, 50.0)


def test_a_log_without_rows_is_summarised_too(tmp_path: Path) -> None:
    trace = read_trace(gpu_log(tmp_path / "log.csv", []))
    assert (len(trace), trace.duration_s, gpu_watt_hours(tmp_path / "log.csv")) == (0, 0.0, None)
    assert set(summarise_columns(trace).values()) == {(None, None)}
