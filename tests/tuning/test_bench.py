"""What the bench compares and shows, on a machine that pretends to train."""

import csv
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.reports.terminal.bench_table import (
    bench_chart,
    bench_csv,
    bench_table,
    describe_measurement,
    tuning_table,
)
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.bench import BenchResult, bench_settings, run_bench
from mloptimizer.tuning.measurement import Measurement, Workload
from mloptimizer.tuning.tune import run_tuning
from tests.pretended_machine import Pretence, make_gpu

Compare = Callable[..., BenchResult]


@pytest.fixture
def compare(make_dataset: Callable[..., DatasetInfo]) -> Compare:
    """Runs the bench with these gains; settings by name."""
    space = SearchSpace("line", "", "", lambda trial, dataset: {}, lambda params, dataset: None)
    workload = Workload(space, {}, make_dataset(), epochs=3, target_accuracy=0.5)

    def run(pretence: Pretence, *gpus: Gpu, **stated: Any) -> BenchResult:
        settings = bench_settings(stated, Settings(), gpus)
        return run_bench(workload, settings, pretence.machine(*gpus), lambda done: None)

    return run


def row(done: BenchResult, name: str) -> Measurement:
    return next(row for row in done.rows if row.name == name)


def shown(renderable: Any, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_baseline_is_measured_first_and_last(compare: Compare) -> None:
    pretence = Pretence()
    done = compare(pretence)
    assert (done.rows[0].name, done.rows[-1].name) == ("baseline", "baseline again")
    assert pretence.seen[0] == pretence.seen[-1]
    assert (pretence.seen[0].profile, pretence.seen[0].xla) == ("basic", "off")


def test_every_optimisation_changes_one_thing(compare: Compare) -> None:
    pretence = Pretence()
    compare(pretence)
    plain = pretence.seen[0].model_dump()
    changed = [{k for k, v in settings.model_dump().items() if v != plain[k]} for settings in pretence.seen]
    for name in ("xla", "data_on_device", "steps_per_execution", "batch_size", "accumulation_steps", "remat"):
        assert {name} in changed


def test_what_helped_is_measured_together(compare: Compare) -> None:
    done = compare(Pretence({("xla", "on"): 1.5, ("prefetch_batches", 8): 1.2, ("remat", "on"): 0.5}))
    assert row(done, "all that helped").changes == {"prefetch_batches": 8, "xla": "on"}
    assert done.ratio(row(done, "all that helped")) == pytest.approx(1.8)
    assert done.ratio(row(done, "rematerialisation")) == pytest.approx(0.5)


def test_of_two_faster_precisions_the_faster_joins_the_others(compare: Compare) -> None:
    gains = {("precision", "tf32"): 1.9, ("precision", "mixed_float16"): 1.5}
    done = compare(Pretence(gains), make_gpu((9, 0)))
    assert row(done, "all that helped").changes == {"precision": "tf32"}


def test_everything_for_speed_leaves_out_what_saves_memory(compare: Compare) -> None:
    changes = row(compare(Pretence()), "everything for speed").changes
    assert changes["xla"] == "on"
    assert not {"remat", "accumulation_steps", "cpu_replicas", "precision"} & changes.keys()


def test_what_is_impossible_here_is_a_row_that_says_so(compare: Compare) -> None:
    done = compare(Pretence())
    assert row(done, "mixed_float16").failure == "not measured: a CPU computes it slower than float32"
    assert row(done, "all GPUs").failure == "not measured: this machine has no GPU"
    assert row(done, "all that helped").failure == "not measured: nothing alone was 3 % faster"
    on_one = compare(Pretence(), make_gpu((9, 0)))
    assert "only without GPUs" in row(on_one, "2 logical CPUs").failure


def test_several_gpus_are_compared_with_one(compare: Compare) -> None:
    pretence = Pretence({("gpus_per_trial", 2): 1.9})
    done = compare(pretence, make_gpu((9, 0)), make_gpu((9, 0)))
    assert pretence.seen[0].gpus_per_trial == 1
    assert done.ratio(row(done, "all GPUs")) == pytest.approx(1.9)


def test_a_variant_that_fails_is_a_row_and_the_rest_goes_on(compare: Compare) -> None:
    done = compare(Pretence(broken=frozenset({("xla", "on")})))
    assert row(done, "XLA").failure == "out_of_memory: too large"
    assert done.rows[-1].images_per_second


def test_a_baseline_that_fails_ends_the_bench(compare: Compare) -> None:
    with pytest.raises(RunError, match="bench: .*out_of_memory: too large"):
        compare(Pretence(broken=frozenset({("xla", "off")})))


def test_what_is_stated_holds_for_all_rows(compare: Compare) -> None:
    pretence = Pretence()
    done = compare(pretence, xla="on", train_limit=400)
    assert row(done, "XLA").failure == "not measured: set for all"
    assert {settings.train_limit for settings in pretence.seen} == {400}


def test_what_cannot_be_combined_is_a_row_that_says_so(compare: Compare) -> None:
    assert "deterministic" in row(compare(Pretence(), deterministic=True), "XLA").failure


def test_a_profile_cannot_be_stated() -> None:
    with pytest.raises(UsageError, match="--set profile: "):
        bench_settings({"profile": "speed"}, Settings(), [])


def compared() -> BenchResult:
    return BenchResult(
        (
            Measurement("baseline", images_per_second=90.0, seconds_per_epoch=2.0, peak_memory_mb=500.0),
            Measurement("XLA", {"xla": "on"}, images_per_second=200.0, seconds_to_target=3.0),
            Measurement("tf32", {"precision": "tf32"}, failure="not measured: no GPU"),
            Measurement("baseline again", images_per_second=110.0),
        )
    )


def test_the_noise_is_how_far_the_baselines_are_apart() -> None:
    assert (compared().baseline, compared().noise_percent) == (100.0, 20.0)
    assert BenchResult(compared().rows[:2]).noise_percent is None


def test_the_table_has_a_row_per_measurement_and_names_what_is_missing() -> None:
    text = shown(bench_table(compared(), 0.9))
    assert "2.00" in text
    assert "tf32: not measured: no GPU" in text
    assert "20.0 % apart" in text
    assert "GPU MB" not in text


def test_a_line_tells_each_measurement() -> None:
    rows = compared().rows
    assert describe_measurement(rows[0], 1.0) == "baseline: 90 images/s, 1.00 × the baseline, 500 MB"
    assert describe_measurement(rows[2], None) == "tf32: not measured: no GPU"


def test_the_csv_has_every_figure_and_empty_cells_for_what_is_missing() -> None:
    rows = list(csv.DictReader(io.StringIO(bench_csv(compared()))))
    assert [line["ratio_to_baseline"] for line in rows] == ["0.9000", "2.0000", "", "1.1000"]
    assert (rows[1]["settings"], rows[1]["seconds_to_target"], rows[0]["gpu_percent"]) == ("xla=on", "3.00", "")
    assert rows[2]["failure"] == "not measured: no GPU"


def test_the_chart_is_a_picture_as_high_as_its_rows() -> None:
    rows = [Measurement(f"row {number}", images_per_second=90.0 + number) for number in range(20)]
    few, many = (bench_chart(BenchResult((*compared().rows, *rows[:count])), "digits") for count in (0, 20))
    height = lambda image: int.from_bytes(image[20:24], "big")  # noqa: E731  (of a PNG's header)
    assert few.startswith(b"\x89PNG")
    assert height(many) > height(few) > 100


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    full = Measurement("everything for speed", {}, 123456.7, 123.45, 123.4, 123.4, 0.987, 12345.0, None, 1234.0)
    on_gpu = dataclasses.replace(full, gpu_memory_mb=123456.0, gpu_percent=100.0)
    for row in (full, on_gpu):
        text = shown(bench_table(BenchResult((*compared().rows, row)), 0.9), 80)
        assert "…" not in text
        assert "everything" in text


def test_the_tuning_table_says_what_was_taken(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> None:
    machine = Pretence({("xla", "on"): 2.0}).machine(make_gpu((7, 0)))
    plan, _ = run_tuning(workspace, make_dataset(train_size=50_000), Settings(), machine)
    text = shown(tuning_table(plan))
    assert any("xla = on" in line and "taken" in line for line in text.splitlines())
    assert "precision = float32, xla = on" in text
    assert "1.99 ×" in text, "a start-up of 2 s over 400 s"
