"""What a log says in a few figures."""

from pathlib import Path

import pytest

from mloptimizer.hardware.analysis.summary import summarise_log
from tests.hardware.logs import gpu_log


def test_a_summary_has_mean_peak_duration_and_energy(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_power_w": 100.0 + s, "gpu0_energy_j": 110 * s} for s in (0.0, 10.0, 20.0)]
    summary = summarise_log(gpu_log(tmp_path / "log.csv", rows))
    assert (summary.rows, summary.duration_s) == (3, 20.0)
    assert summary.gpu_energy_wh == pytest.approx(2200 / 3600)
    assert dict(summary.figures.loc["gpu0_power_w"]) == {"mean": 110.0, "peak": 120.0}


def test_the_energies_of_all_gpus_and_of_a_continued_log_add_up(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_energy_j": 36 * s, "gpu1_power_w": 36.0} for s in (0.0, 50.0)]
    path = gpu_log(tmp_path / "log.csv", rows, gpus=2)
    assert summarise_log(gpu_log(path, rows, gpus=2)).gpu_energy_wh == pytest.approx(4 * 0.5)


def test_a_log_without_gpus_has_no_energy(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0, "cpu_percent": 50.0}], gpus=0)
    summary = summarise_log(path)
    assert summary.gpu_energy_wh is None
    assert summary.figures.loc["cpu_percent", "peak"] == 50.0


def test_a_log_without_rows_is_summarised_too(tmp_path: Path) -> None:
    summary = summarise_log(gpu_log(tmp_path / "log.csv", []))
    assert (summary.rows, summary.duration_s, summary.gpu_energy_wh) == (0, 0.0, None)
