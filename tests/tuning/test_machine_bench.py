"""The machine benchmark, on machines that pretend to train and once on this one."""

from pathlib import Path

import pytest

from mloptimizer.core.errors import RunError
from mloptimizer.hardware.analysis.energy import cpu_watts, gpu_watts
from mloptimizer.store.machine_file import read_machine_file, write_machine_file
from mloptimizer.tuning.machine_bench import Extent, list_cases, run_machine_bench
from mloptimizer.tuning.measurement import this_machine
from tests.pretended_machine import Pretence, make_gpu

SMALL = Extent(180, 2)


def test_one_and_all_gpus_are_measured_in_both_precisions_in_turn() -> None:
    pretence = Pretence({("gpus_per_trial", 2): 1.5, ("precision", "auto"): 2.0})
    lines: list[str] = []
    found = run_machine_bench(pretence.machine(make_gpu((9, 0)), make_gpu((9, 0))), lines.append, SMALL)
    assert [(run.gpus, run.settings["precision"], run.images_per_second) for run in found.runs] == [
        (1, "float32", 1000.0),
        (2, "float32", 1500.0),
        (1, "auto", 2000.0),
        (2, "auto", 3000.0),
    ]
    assert len(lines) == len(pretence.seen) == 8
    assert pretence.seen[:4] == pretence.seen[4:]
    assert found.runs[0].noise_percent == 0.0


def test_an_old_gpu_and_a_cpu_are_measured_in_float32_alone() -> None:
    assert list_cases(Pretence().machine(make_gpu((6, 1)))) == ["1 GPU, float32"]
    assert list_cases(Pretence().machine()) == ["CPU, float32"]


def test_a_run_that_fails_says_why_and_nothing_at_all_is_an_error() -> None:
    broken = Pretence(broken=frozenset({("precision", "auto")}))
    found = run_machine_bench(broken.machine(make_gpu((9, 0))), lambda line: None, SMALL)
    assert [run.failure for run in found.runs] == ["", "out_of_memory: too large"]
    with pytest.raises(RunError, match="out_of_memory: too large"):
        run_machine_bench(Pretence(broken=frozenset({("xla", "off")})).machine(), lambda line: None, SMALL)


@pytest.mark.slow
def test_this_machine_is_measured_and_the_file_is_read_back(tmp_path: Path) -> None:
    found = run_machine_bench(this_machine(), lambda line: None, Extent(180, 2, repetitions=1))
    write_machine_file(tmp_path / "m.json", found)
    kept = read_machine_file(tmp_path / "m.json")
    (run,) = [run for run in kept.runs if run.settings["precision"] == "float32"][:1]
    assert run.images_per_second
    assert run.startup_seconds
    assert kept.machine["tensorflow"]
    assert kept.workload["images"] == 160


def test_watts_are_those_of_the_energy_counters_or_else_the_mean_power() -> None:
    counted = [
        {"seconds": s, "gpu0_power_w": 9.0, "gpu0_energy_j": 100.0 * s, "cpu_energy_j": 50.0 * s} for s in (0, 2)
    ]
    told = [{"seconds": s, "gpu0_power_w": 100.0, "gpu0_energy_j": None, "gpu1_power_w": 100.0 + s} for s in (0, 2)]
    assert (gpu_watts(counted), cpu_watts(counted)) == (100.0, 50.0)
    assert (gpu_watts(told), cpu_watts(told)) == (201.0, None)
    assert (gpu_watts([{"gpu0_power_w": None}]), gpu_watts([]), cpu_watts([])) == (None, None, None)
