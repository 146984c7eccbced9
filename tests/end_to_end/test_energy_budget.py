"""A search from the shell whose energy is measured: a real search and the real client library over the stand-in for
NVIDIA's, whose GPU draws power though TensorFlow has none and trains on the CPU."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mloptimizer.hardware.analysis.summary import summarise
from mloptimizer.hardware.analysis.trace import read_trace
from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in
from tests.shell import results, run, write_small_space

ROOT = Path(__file__).parents[2]
WATTS = 36_000.0  # 1 kWh in 100 s
SETTINGS = ("exploration_epochs=40", "exploration_patience=40", "start_method=spawn", "autotune=off", "grid_co2=100")


@pytest.fixture
def nvml(tmp_path: Path) -> NvmlStandIn:
    folder = tmp_path / "nvml"
    folder.mkdir()
    stand_in = NvmlStandIn(build_nvml_stand_in(folder), folder / "state.txt")
    stand_in.set(gpus=1, gpu__power_mw=int(1000 * WATTS))
    return stand_in


def search(nvml: NvmlStandIn, workspace: Path, *words: str) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tests.pretended_gpu", "search", *words]
    environment = nvml.environment(PYTHONPATH=path)
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_search_stops_when_its_trials_have_used_their_energy_and_records_it_over_all_attempts(
    nvml: NvmlStandIn, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    write_small_space(workspace)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    start = ("--dataset", "digits", "--space", "small", "--trials", "1", "--explore-only")
    said = search(nvml, workspace, *start, *options, "--max-kwh", "0.001")
    assert "max_kwh = 0.001" in said
    assert results(workspace / "metrics_data" / "digits") == []  # it was suspended, and waits
    log = workspace / "hardware_performance_logs" / "digits" / "trial_00000.csv"
    used = summarise(read_trace(log))["energy_wh"]
    assert isinstance(used, float) and used >= 1

    search(nvml, workspace, "--study", "digits", "--explore-only")
    (result,) = results(workspace / "metrics_data" / "digits")
    hardware = result["hardware"]
    assert isinstance(hardware, dict)
    assert (hardware["attempts"], hardware["gpus"], hardware["gpu_energy_source"]) == (2, 1, "counter")
    assert hardware["gpu_wh"] > used
    assert hardware["gpu_wh"] == pytest.approx(WATTS * hardware["duration_s"] / 3600, rel=0.02)
    assert hardware["co2_g"] == pytest.approx(0.1 * hardware["energy_wh"], rel=0.01)

    place = ("--workspace", str(workspace))
    assert "100 g/kWh" in run("hardware", "digits", *place, cwd=tmp_path, COLUMNS="150").stdout
    assert "Wh" in run("show", "digits", "0", *place, cwd=tmp_path, COLUMNS="150").stdout
    assert "digits" in run("diagnose", "digits", *place, cwd=tmp_path).stdout
    run("trials", "digits", "--csv", str(tmp_path / "trials.csv"), *place, cwd=tmp_path)
    (row,) = csv.DictReader((tmp_path / "trials.csv").read_text().splitlines())
    assert float(row["hardware_gpu_wh"]) == pytest.approx(hardware["gpu_wh"])
