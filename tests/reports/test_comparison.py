"""Comparisons of the records of several studies and machines."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mloptimizer.cli.main import commands
from mloptimizer.core.errors import UsageError
from mloptimizer.reports.model.comparison import Comparison, compare, read_prices
from mloptimizer.reports.model.trainings import read_trainings
from mloptimizer.reports.terminal.comparison_table import comparison_chart, comparison_csv, comparison_table
from mloptimizer.store.machine_file import BenchRun, MachineBenchmark, write_machine_file
from mloptimizer.store.workspace import Workspace
from tests.reports.study_files import text_of
from tests.reports.watched_records import machine, write_study, write_training

ENERGY = {"duration_s": 1800.0, "energy_wh": 100.0, "gpu_utilization_percent": 60.0}


def compared(workspace: Workspace, *words: str, **prices: float) -> Comparison:
    return compare(*read_trainings(words, workspace), prices)


def write_benchmark(path: Path, host: str, *runs: BenchRun) -> str:
    workload = {"model": "resnet", "params": {}, "input_shape": [32, 32, 3], "classes": 10, "batch_size": 128}
    write_machine_file(path, MachineBenchmark("0.1.0", "2026-01-01", machine(host), workload, runs))
    return str(path)


def run_of(gpus: int, speed: float, precision: str = "float32") -> BenchRun:
    return BenchRun(f"{gpus} GPUs", gpus, {}, {"precision": precision, "XLA": "off"}, speed, 1.0, power_w=360.0)


def test_values_come_from_steady_epochs_and_the_hardware_summary(workspace: Workspace) -> None:
    write_study(workspace, "a", machine=machine())
    write_training(workspace, "a", 0, 100.0, hardware=ENERGY)
    write_training(workspace, "a", 1, 200.0, hardware={**ENERGY, "energy_wh": 300.0})
    (row,) = compared(workspace, "a").rows
    assert (row.images_per_second, row.seconds_per_epoch, row.trainings) == (150.0, 7.5, 2)
    assert (row.power_w, row.wh_per_trial, row.gpu_percent) == (400.0, 200.0, 60.0)
    assert row.wh_per_1000_images == pytest.approx(400 / 150 / 3.6)


def test_scaling_covers_the_models_that_both_have_trained(workspace: Workspace) -> None:
    write_study(workspace, "a", machine=machine())
    for number, speed in enumerate((100.0, 200.0, 300.0)):
        write_training(workspace, "a", number, speed)
    write_study(workspace, "b", machine=machine())
    write_training(workspace, "b", 0, 320.0, gpus=4, params={"width": 0})
    write_training(workspace, "b", 1, 640.0, gpus=4, params={"width": 1})
    write_training(workspace, "b", 2, 9999.0, gpus=4, params={"width": 77})
    one, four = compared(workspace, "a", "b").rows
    assert (one.scaling.ratio, one.scaling.count) == (None, 0)
    assert four.scaling.ratio == pytest.approx(0.8)
    assert (four.scaling.count, four.against_first.count) == (2, 2)
    assert four.against_first.ratio == pytest.approx(3.2)


@pytest.mark.parametrize(
    "other",
    [
        {"choices": {"precision": "mixed_float16", "XLA": "off"}},
        {"choices": {"precision": "float32", "XLA": "on"}},
        {"hardware": {"trials_on_gpu": 2.0}},
    ],
)
def test_scaling_has_no_pair_where_more_than_the_gpus_differs(workspace: Workspace, other: dict[str, Any]) -> None:
    write_study(workspace, "a", machine=machine())
    write_training(workspace, "a", 0, 100.0, **other)
    write_training(workspace, "a", 1, 300.0, gpus=4, params={"width": 0})
    assert compared(workspace, "a").rows[1].scaling.ratio is None


def test_scaling_has_no_pair_on_another_gpu(workspace: Workspace) -> None:
    for name, gpu in (("a", "fast"), ("b", "slow")):
        write_study(workspace, name, machine=machine(gpus=0) | {"gpus": [{"name": gpu, "count": 4}]})
    write_training(workspace, "a", 0, 100.0)
    write_training(workspace, "b", 0, 300.0, gpus=4)
    assert compared(workspace, "a", "b").rows[1].scaling.ratio is None


def test_a_study_that_moved_has_a_row_for_each_machine(workspace: Workspace) -> None:
    old = machine("small", 1, since_utc="2026-01-01T00:00:00+00:00")
    new = machine("big", 8, since_utc="2026-01-02T00:00:00+00:00")
    write_study(workspace, "a", machine=new, earlier_machines=[old])
    write_training(workspace, "a", 0, 100.0, host="small")
    write_training(workspace, "a", 1, 200.0, host="big", started="2026-01-02T12:00:00+00:00")
    assert [(row.machine["host"], row.images_per_second) for row in compared(workspace, "a").rows] == [
        ("small", 100.0),
        ("big", 200.0),
    ]


def test_epochs_of_an_earlier_attempt_do_not_count(workspace: Workspace) -> None:
    write_study(workspace, "a", machine=machine())
    write_training(workspace, "a", 0, 100.0, started="2026-01-01T12:30:00+00:00")
    path = workspace.trial("a", 0) / "epochs.jsonl"
    early = {"epoch": 0, "seconds": 1.0, "images_per_second": 7.0, "ended_utc": "2026-01-01T12:00:00Z"}
    path.write_text(f"{json.dumps(early)}\n" * 9 + path.read_text())
    assert compared(workspace, "a").rows[0].images_per_second == 100.0


def test_costs_are_gpu_hours_or_shares_of_a_machine_hour(workspace: Workspace) -> None:
    write_study(workspace, "a", machine=machine())
    write_training(workspace, "a", 0, 1000.0, gpus=2)
    write_training(workspace, "a", 1, 1000.0, gpus=1, hardware={"duration_s": 1800.0, "trials_on_gpu": 2.0})
    write_training(workspace, "a", 2, 1000.0, gpus=0)
    rows = compared(workspace, "a", **{"": 4.0}).rows
    assert [row.cost_per_trial for row in rows] == [8.0, 1.0, 1.0], "2 GPUs; half a GPU, half an hour; 4 of 16 cores"
    assert rows[0].cost_per_million_images == pytest.approx(8.0 * 1e6 / 3.6e6)
    assert "GPU-hour" in text_of(comparison_table(compared(workspace, "a", a=4.0)))


@pytest.mark.parametrize("word", ["free", "-1", "nan", "b=2", "a="])
def test_an_invalid_price_is_one_line(word: str) -> None:
    with pytest.raises(UsageError, match="--price-per-hour"):
        read_prices([word], ["a"])


def test_incomplete_records_are_dashes(workspace: Workspace) -> None:
    write_study(workspace, "old")
    write_training(workspace, "old", 0, 100.0)
    plan = workspace.trial("old", 0) / "plan.json"
    plan.write_text(json.dumps({"space": "resnet", "params": {}}))
    write_training(workspace, "old", 1, 100.0)
    (workspace.trial("old", 1) / "plan.json").write_text("{")
    done = compared(workspace, "old", **{"": 1.0})
    assert (done.rows[0].gpus, done.rows[0].machine, done.rows[0].cost_per_trial) == (None, {}, None)
    assert "trial_00001/plan.json: " in text_of(comparison_table(done), 300)


def test_a_study_in_another_workspace_and_benchmarks_join(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    write_study(other, "a", machine=machine("far"))
    write_training(other, "a", 0, 100.0, host="far")
    file = write_benchmark(tmp_path / "m.json", "here", run_of(1, 1000.0), run_of(8, 6000.0))
    rows = compared(workspace, f"a@{other.root}", file).rows
    assert [row.machine["host"] for row in rows] == ["far", "here", "here"]
    assert (rows[2].scaling.ratio, rows[2].against_first.ratio) == (0.75, None)
    assert rows[1].wh_per_1000_images == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "JSON"),
        ("{}", "not a machine benchmark"),
        (
            '{"format": "mloptimizer machine benchmark", "version": 2}',
            "has format 2, and this mloptimizer reads up to 1",
        ),
        ('{"format": "mloptimizer machine benchmark", "version": 1}', "is damaged"),
    ],
)
def test_an_unreadable_file_is_one_line(workspace: Workspace, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        read_trainings([str(tmp_path / "m.json")], workspace)


def test_a_benchmark_is_never_overwritten(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "m.json", "here", run_of(1, 1000.0))
    with pytest.raises(UsageError, match="exists already"):
        write_benchmark(tmp_path / "m.json", "here")


def test_table_csv_and_chart_hold_every_row(workspace: Workspace, tmp_path: Path) -> None:
    file = write_benchmark(tmp_path / "m.json", "$here$", run_of(1, 1000.0), run_of(8, 6000.0, "mixed_float16"))
    done = compared(workspace, file)
    assert "mixed_float16" in text_of(comparison_table(done), 80)
    rows = list(csv.DictReader(comparison_csv(done).splitlines()))
    assert [(row["gpus"], row["images_per_second"], row["precision"]) for row in rows] == [
        ("1", "1000", "float32"),
        ("8", "6000", "mixed_float16"),
    ]
    assert comparison_chart(done).startswith(b"\x89PNG")


def test_the_table_fits_a_terminal_of_80_columns(workspace: Workspace) -> None:
    write_study(workspace, "a", machine=machine())
    for gpus in (1, 8):
        params = {"width": 0}
        write_training(workspace, "a", gpus, 123456.0 * gpus, gpus=gpus, params=params, hardware=ENERGY)
    text = text_of(comparison_table(compared(workspace, "a", a=2.5)), 80)
    assert "100 % (1)" in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hardware --compare nothing", "'nothing'"),
        ("hardware --compare nothing@/nowhere", "/nowhere"),
        ("hardware nothing --csv x.csv", "--csv: "),
        ("bench --machine --epochs 3", "--epochs: "),
        ("bench --machine --set xla=on", "--set: "),
    ],
)
def test_a_mistake_is_one_line(workspace: Workspace, words: str, message: str) -> None:
    done = CliRunner().invoke(commands, [*words.split(), "--workspace", str(workspace.root)])
    assert message in str(done.exception)
