"""A row of the log, and the README that says what its cells are."""

import os
import re
from pathlib import Path

from mloptimizer.hardware.read.reader import (
    HardwareReader,
    column_names,
    describe_columns,
    find_column,
    render_log_readme,
)
from mloptimizer.hardware.read.training_clock import TrainingClock
from tests.hardware.logs import spend_processor_seconds

README = Path(__file__).parents[2] / "hardware_performance_logs" / "README.md"


def test_a_row_has_every_column_in_order_and_no_gpu_without_one() -> None:
    clock = iter([10.0, 11.5])
    reader = HardwareReader([], os.getpid(), TrainingClock(), clock=lambda: next(clock))
    spend_processor_seconds(0.05)
    row = reader.read()
    assert (
        list(row)
        == column_names(0)
        == [name for name in column_names(2, (0, 5)) if not name.startswith(("gpu", "core"))]
    )
    assert row["seconds"] == 1.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(row["time_utc"]))
    optional = {"disk_read_mb_s", "disk_write_mb_s", "cpu_mhz", "page_cache_mb", "cpu_energy_j"}  # on some machines
    assert {name for name in row if row[name] is None} - optional == {"part", "trials_on_gpu", "trials_on_cores"}


def test_the_cores_of_the_slot_and_its_gpus_have_columns_of_their_own() -> None:
    names = column_names(2, (4, 1))
    assert [name for name in names if name.startswith("core")] == ["core4_percent", "core1_percent"]
    assert names.index("cpu_percent") + 1 == names.index("core4_percent")
    assert [name for name in names if name.endswith("throttle_reasons")] == [
        "gpu0_throttle_reasons",
        "gpu1_throttle_reasons",
    ]
    assert len(set(names)) == len(names)


def test_the_column_of_any_header_is_found_by_its_name() -> None:
    for name, column in describe_columns(3, (0, 17)).items():
        assert find_column(name) == column
    assert find_column("gpu11_power_w") == describe_columns(12)["gpu11_power_w"]
    assert find_column("gpu0_fan") is find_column("gpu_power_w") is find_column("core1_mhz") is None


def test_what_only_grows_or_is_a_mask_is_never_averaged_when_a_log_is_thinned() -> None:
    merges = {name: column.merge for name, column in describe_columns(1, (0,)).items()}
    sums = {"seconds", "images", *(name for name, column in describe_columns(1).items() if column.unit in ("s", "J"))}
    assert {merges[name] for name in (*sums, "time_utc", "step", "gpu0_throttle_reasons")} == {"last"}
    assert {name for name in merges if merges[name] == "max"} == {
        "gpu0_memory_used_mb",
        "gpu0_process_memory_mb",
        "gpu0_temperature_c",
        "ram_used_mb",
        "process_rss_mb",
    }


def test_the_readme_is_the_one_that_the_program_writes() -> None:
    assert README.read_text(encoding="utf-8") == render_log_readme()


def test_the_readme_names_every_column_once() -> None:
    assert re.findall(r"^\| `(\w+)` \|", render_log_readme(), re.MULTILINE) == column_names(1, (0,))
