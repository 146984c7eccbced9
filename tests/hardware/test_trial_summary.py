import json
from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.hardware.analysis import grid
from mloptimizer.hardware.analysis.diagnosis import describe_trial
from mloptimizer.hardware.analysis.grid import describe_grid, find_grid
from mloptimizer.hardware.analysis.summary import summarise
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.columns import Cell
from mloptimizer.store.metrics_readme import render_metrics_readme

METRICS = """
duration_s rows attempts gpus trials_on_gpu gpu_utilization_percent gpu_utilization_p95_percent
gpu_utilization_peak_percent gpu_memory_utilization_percent gpu_memory_utilization_p95_percent
gpu_memory_utilization_peak_percent gpu_memory_peak_mb gpu_power_w gpu_power_peak_w gpu_wh gpu_energy_source
cpu_wh energy_wh co2_g grid_g_per_kwh throttled_percent throttle_reasons process_cores machine_cores cpu_percent
ram_peak_mb images images_per_second images_per_joule data_wait_percent idle_s idle_periods longest_idle_s
setup_s build_s first_step_s training_s validation_s checkpoint_s save_s other_s
"""
README = Path(__file__).parents[2] / "metrics_data" / "README.md"


def log(path: Path, rows: list[dict[str, object]]) -> Path:
    header = list(dict.fromkeys(["time_utc", "seconds", *(name for row in rows for name in row)]))
    lines = [",".join(header), *(",".join(str(row.get(name, "")) for name in header) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def summary(tmp_path: Path, rows: list[dict[str, object]], **arguments: float) -> dict[str, Cell]:
    return summarise(read_trace(log(tmp_path / "log.csv", rows)), machine_cores=4, **arguments)


def test_a_summary_has_every_metric_and_nothing_else(tmp_path: Path) -> None:
    assert list(summary(tmp_path, [{"seconds": 0.0}])) == METRICS.split()
    assert list(describe_trial(log(tmp_path / "log.csv", []))) == [*METRICS.split(), "findings"]


@pytest.mark.parametrize("cell", ["1e308", "-1e308", "1e999", "nan", "9" * 400])
def test_cells_that_no_hardware_has_are_unknown_and_every_metric_can_be_written(tmp_path: Path, cell: str) -> None:
    names = ("gpu0_power_w", "gpu0_energy_j", "cpu_percent", "images", "training_s", "gpu0_throttle_reasons")
    rows: list[dict[str, object]] = [{"seconds": at, **dict.fromkeys(names, cell)} for at in range(3)]
    told = describe_trial(log(tmp_path / "log.csv", rows))
    json.dumps(told, allow_nan=False)
    assert told["energy_wh"] is told["images"] is None


def test_what_a_log_lacks_is_none(tmp_path: Path) -> None:
    told = summary(tmp_path, [{"seconds": 0.0}, {"seconds": 2.0}])
    known = {name: value for name, value in told.items() if value is not None}
    assert known == {
        "duration_s": 2.0, "rows": 2, "attempts": 1, "gpus": 0, "grid_g_per_kwh": 475.0, "machine_cores": 4
    }  # fmt: skip


def test_the_cores_are_those_of_the_machine_that_wrote_the_log(tmp_path: Path) -> None:
    row: dict[str, object] = {"process_cpu_percent": 200, "cpu_percent": 50, "machine_cores": 64}
    rows = [{"seconds": float(s), "cpu_energy_j": 16 * s, **row} for s in range(11)]
    told = summary(tmp_path, rows)
    assert told["machine_cores"] == 64
    assert told["cpu_wh"] == pytest.approx(160 / 16 / 3600, rel=0.01)  # 2 of the 32 cores that were busy


def test_use_of_gpus_is_a_mean_over_time_and_gpus(tmp_path: Path) -> None:
    rows = [{"seconds": float(s), "gpu0_utilization_percent": 100 if s == 9 else 50, "gpu1_utilization_percent": 30,
             "gpu0_memory_used_mb": 900, "gpu0_process_memory_mb": 500 + s, "gpu1_memory_used_mb": 700,
             "gpu0_power_w": 100, "gpu1_power_w": 60} for s in range(11)]  # fmt: skip
    told = summary(tmp_path, rows)
    assert told["gpus"] == 2
    assert told["gpu_utilization_percent"] == pytest.approx((9 * 40 + 65) / 10)
    assert told["gpu_utilization_p95_percent"] == 65.0
    assert told["gpu_utilization_peak_percent"] == 100.0
    assert told["gpu_memory_peak_mb"] == 700.0  # of gpu0 its own: others use the rest
    assert (told["gpu_power_w"], told["gpu_power_peak_w"]) == (160.0, 160.0)
    assert told["gpu_wh"] == pytest.approx(1600 / 3600, abs=1e-3)
    assert told["gpu_energy_source"] == "power"


def test_energy_becomes_grams_by_the_stated_factor(tmp_path: Path) -> None:
    rows = [{"seconds": 10.0 * s, "gpu0_energy_j": 3600.0 * s, "cpu_energy_j": 3600.0 * s, "cpu_percent": 50,
             "process_cpu_percent": 100, "images": 100 * s} for s in range(3)]  # fmt: skip
    told = summary(tmp_path, rows, grid_g_per_kwh=100.0)
    assert (told["gpu_wh"], told["cpu_wh"], told["energy_wh"]) == (2.0, 1.0, 3.0)
    assert (told["co2_g"], told["grid_g_per_kwh"]) == (0.3, 100.0)
    assert told["images_per_joule"] == pytest.approx(200 / (3 * 3600), rel=0.01)


def test_rates_of_the_training_leave_out_its_first_step(tmp_path: Path) -> None:
    rows = [
        {"seconds": 0.0, "part": "setup", "images": 0, "data_wait_s": 0.0, "training_s": 0.0, "first_step_s": 0.0},
        {"seconds": 10.0, "part": "training", "images": 64, "data_wait_s": 3.0, "training_s": 0.5, "first_step_s": 9.0},
        {"seconds": 20.0, "part": "training", "images": 1064, "data_wait_s": 5.0, "training_s": 10.5},
    ]
    told = summary(tmp_path, rows)
    assert told["images"] == 1064
    assert told["images_per_second"] == 100.0
    assert told["data_wait_percent"] == 20.0
    assert (told["first_step_s"], told["training_s"], told["build_s"]) == (9.0, 10.5, 0.0)
    assert told["other_s"] == 0.5


def test_sums_of_a_continued_log_add_up(tmp_path: Path) -> None:
    attempt = [{"seconds": 5.0 * s, "part": "training", "images": 50 * s, "training_s": 5.0 * s} for s in range(4)]
    told = summary(tmp_path, [*attempt, *attempt])
    assert (told["attempts"], told["images"], told["training_s"], told["duration_s"]) == (2, 300, 30.0, 30.0)
    assert told["images_per_second"] == 10.0


def test_periods_in_which_a_gpu_does_nothing_are_counted_from_five_seconds_on(tmp_path: Path) -> None:
    idle = {*range(3, 7), *range(10, 16), *range(20, 30)}
    rows = [{"seconds": float(s), "part": "training", "gpu0_utilization_percent": 2 if s in idle else 80}
            for s in range(40)]  # fmt: skip
    told = summary(tmp_path, rows)
    assert (told["idle_s"], told["idle_periods"], told["longest_idle_s"]) == (16.0, 2, 10.0)


def test_an_attempt_without_parts_does_not_count_as_idle(tmp_path: Path) -> None:
    earlier = [{"seconds": float(s), "process_cpu_percent": 90} for s in range(20)]
    later = [{"seconds": float(s), "process_cpu_percent": 90, "part": "training"} for s in range(10)]
    assert summary(tmp_path, [*earlier, *later])["idle_s"] == 0.0


@pytest.mark.parametrize(("cpu", "part", "idle"), [(4.9, "training", 9.0), (5.1, "training", 0.0), (90, "", 9.0)])
def test_without_a_gpu_it_is_the_processes_that_idle_or_a_time_without_a_part(
    tmp_path: Path, cpu: float, part: str, idle: float
) -> None:
    rows = [{"seconds": float(s), "part": part, "process_cpu_percent": cpu} for s in range(10)]
    rows.append({"seconds": 10.0, "part": "save", "process_cpu_percent": 100})
    assert summary(tmp_path, rows)["idle_s"] == idle


def test_throttling_is_described_with_the_longest_reason_first(tmp_path: Path) -> None:
    masks = [1, 0x4, 0x44, 0x40, 0x40, 2, 0, 0, 0, 0, 0]
    told = summary(tmp_path, [{"seconds": float(s), "gpu0_throttle_reasons": mask} for s, mask in enumerate(masks)])
    assert told["throttled_percent"] == 40.0
    assert told["throttle_reasons"] == "temperature, by the hardware, power limit"


# The grid


def test_a_number_is_the_factor_and_the_default_says_so() -> None:
    assert find_grid(381).g_per_kwh == 381.0
    assert describe_grid(475.0) == "475 g/kWh, the world's mean, unless grid_co2 says otherwise"
    assert describe_grid(381.0) == "381 g/kWh, setting grid_co2"


@pytest.fixture
def codecarbon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named codecarbon that must not be imported, with a table as the real one's."""
    folder = tmp_path / "codecarbon" / "data" / "private_infra"
    folder.mkdir(parents=True)
    (tmp_path / "codecarbon" / "__init__.py").write_text("raise AssertionError('it would start to measure')\n")
    table = {
        "DEU": {"carbon_intensity": 380.95, "country_name": "Germany", "year": 2023},
        "CAF": {"carbon_intensity": None},
    }
    (folder / "global_energy_mix.json").write_text(json.dumps(table))
    monkeypatch.syspath_prepend(str(tmp_path))
    grid._read_table.cache_clear()


def test_a_country_is_looked_up_in_codecarbons_table(codecarbon: None) -> None:
    found = find_grid("deu")
    assert (found.g_per_kwh, found.source) == (380.95, "Germany in 2023, codecarbon's table")


def test_the_table_of_the_real_codecarbon_has_the_grams_of_a_countrys_kilowatt_hour() -> None:
    grid._read_table.cache_clear()
    france, germany = find_grid("FRA"), find_grid("DEU")
    assert 20 < france.g_per_kwh < 120 and 250 < germany.g_per_kwh < 500
    assert germany.source.startswith("Germany in 20")


@pytest.mark.parametrize("code", ["XYZ", "CAF"])
def test_a_country_missing_from_the_table_is_one_line(codecarbon: None, code: str) -> None:
    with pytest.raises(UsageError, match=f"grid_co2 = {code}: codecarbon's table has no "):
        find_grid(code)


def test_without_codecarbon_a_country_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    grid._read_table.cache_clear()
    monkeypatch.setattr(grid.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"grid_co2 = DEU: .*pip install 'mloptimizer\[carbon\]'"):
        find_grid("DEU")


# The README


def test_the_readme_of_metrics_data_is_the_one_that_the_program_writes() -> None:
    assert README.read_text(encoding="utf-8") == render_metrics_readme()
