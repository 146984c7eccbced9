"""The values of a GPU."""

import json
import math
from pathlib import Path
from typing import Any

import pynvml
import pytest

from mloptimizer.hardware.analysis.throttling import THROTTLED, name_reasons
from mloptimizer.hardware.read.gpu_readings import EnergyCounter
from tests.hardware.logs import gpu_watt_hours, read_log
from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in, partitioned

READ_GPU_0 = """
import json, os
from mloptimizer.hardware.read.reader import HardwareReader
set_values(gpu__0__processes=f"{os.getpid()}:1073741824 1:99999999")
reader = HardwareReader([gpu_uuid(0)], os.getpid())
row = reader.read()
reader.close()
print(json.dumps({name.removeprefix("gpu0_"): cell for name, cell in row.items() if name.startswith("gpu0_")}))
"""


NVLINK = ("nvlink_rx_mb_s", "nvlink_tx_mb_s")  # which the stand-in has only where a test says so


def test_every_gpu_column_holds_the_drivers_value_in_its_unit(nvml: NvmlStandIn) -> None:
    assert nvml.run(READ_GPU_0) == {
        "utilization_percent": 61,
        "memory_utilization_percent": 37,
        "memory_used_mb": 2048,
        "memory_total_mb": 81920,
        "process_memory_mb": 1024,
        "power_w": 250,
        "power_limit_w": 700,
        "energy_j": 0,
        "temperature_c": 55,
        "sm_clock_mhz": 1980,
        "sm_clock_max_mhz": 2100,
        "memory_clock_mhz": 2619,
        "throttle_reasons": 4,
        "pcie_rx_mb_s": 3,
        "pcie_tx_mb_s": 5,
    } | dict.fromkeys(NVLINK)


def test_nvlink_counts_what_passed_since_the_previous_row(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.read.reader import HardwareReader
now = 0.0
reader = HardwareReader([gpu_uuid(0), gpu_uuid(1)], os.getpid(), clock=lambda: now)
rows = []
for now, sent in ((1.0, 1024), (3.0, 5120), (3.01, 9216), (4.0, 0), (5.0, 2048)):
    set_values(gpu__0__nvlink_rx_kib=2 * sent, gpu__0__nvlink_tx_kib=sent)
    row = reader.read()
    rows.append([row["gpu0_nvlink_rx_mb_s"], row["gpu0_nvlink_tx_mb_s"], row["gpu1_nvlink_tx_mb_s"]])
print(json.dumps(rows))
"""
    nothing = [None, None, None]  # in the first row, over too short a time, and where the counter began anew
    assert nvml.run(code) == [nothing, [4.0, 2.0, None], nothing, nothing, [4.0, 2.0, None]]


def test_every_reason_to_throttle_has_words_and_idling_is_not_one() -> None:
    names = [name for name in dir(pynvml) if name.startswith(("nvmlClocksThrottleReason", "nvmlClocksEventReason"))]
    bits = {getattr(pynvml, name) for name in names if not name.endswith(("All", "None"))}
    assert {bit for bit in bits if not name_reasons(bit)} == {1, 2} == {bit for bit in bits if not bit & THROTTLED}
    assert name_reasons(0) == name_reasons(3.0) == []
    assert name_reasons(1 | 4 | 64) == ["power limit", "temperature, by the hardware"]


def test_an_instance_has_its_own_memory_and_the_clocks_and_temperature_of_its_gpu(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=1, **partitioned(0, 8000, 4000))
    code = (
        READ_GPU_0.replace("gpu_uuid(0)", "mig_uuid(0, 2)")
        .replace("gpu__0__processes", "gpu__0__mig__2__processes")
        .replace("row = reader.read()", "reader.read(); row = reader.read()")
    )
    row = nvml.run(code)
    assert {name: cell for name, cell in row.items() if cell is not None} == {
        "memory_used_mb": 1000,
        "memory_total_mb": 4000,
        "process_memory_mb": 1024,
        "temperature_c": 55,
        "sm_clock_mhz": 1980,
        "sm_clock_max_mhz": 2100,
        "memory_clock_mhz": 2619,
        "throttle_reasons": 4,
    }


def test_gpu_columns_follow_the_order_of_the_slot_and_change_live(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.read.reader import HardwareReader
reader = HardwareReader([gpu_uuid(5), gpu_uuid(2)], os.getpid())
rows = [reader.read()]
set_values(gpu__2__temperature=90)
rows.append(reader.read())
print(json.dumps([[row["gpu0_temperature_c"], row["gpu1_temperature_c"]] for row in rows]))
"""
    nvml.set(gpu__5__temperature=75, gpu__2__temperature=72)
    assert nvml.run(code) == [[75, 72], [75, 90]]


@pytest.mark.parametrize("code", [3, 13, 999])
def test_a_value_that_a_gpu_does_not_offer_is_empty_and_the_others_stay(nvml: NvmlStandIn, code: int) -> None:
    nvml.set(error__nvmlDeviceGetPowerUsage=code, error__nvmlDeviceGetTotalEnergyConsumption=code)
    row = nvml.run(READ_GPU_0)
    assert {name for name, cell in row.items() if cell is None} == {"power_w", "energy_j", *NVLINK}


def test_an_older_drivers_functions_replace_missing_new_ones(tmp_path: Path) -> None:
    without = ["TemperatureV", "MemoryInfo_v2", "TotalEnergyConsumption", "CurrentClocksEventReasons", "FieldValues"]
    without = [f"nvmlDeviceGet{name}" for name in without]
    nvml = NvmlStandIn(build_nvml_stand_in(tmp_path, without), tmp_path / "state.txt")
    nvml.set(gpus=1)
    row = nvml.run(READ_GPU_0)
    assert (row["temperature_c"], row["memory_used_mb"], row["energy_j"]) == (55, 2048 + 512, None)
    assert (row["throttle_reasons"], row["nvlink_rx_mb_s"]) == (4, None)


def test_a_lost_gpu_that_comes_back_is_read_again(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.read.reader import HardwareReader
now = 100.0
set_values(now_s=now)
reader = HardwareReader([gpu_uuid(0), mig_uuid(1, 1)], os.getpid(), clock=lambda: now)
rows = []
for lost in (None, 15, 15, None, None):
    set_values(now_s=now, error__0__all=lost, error__1__all=lost)
    row = reader.read()
    rows.append([row["gpu0_temperature_c"], row["gpu0_energy_j"], row["gpu1_memory_total_mb"]])
    now += 1
print(json.dumps(rows))
"""
    nvml.set(gpus=2, **partitioned(1, 4000))
    lost = [None, None, None]
    assert nvml.run(code) == [[55, 0, 4000], lost, lost, [55, 750, 4000], [55, 1000, 4000]]


def test_a_gpu_lost_on_the_way_empties_its_cells_and_no_others(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.read.reader import HardwareReader
reader = HardwareReader([gpu_uuid(0), gpu_uuid(1)], os.getpid())
before = reader.read()
set_values(error__0__all=15)
after = reader.read()
print(json.dumps([before, after]))
"""
    before, after = nvml.run(code)
    assert before["gpu0_power_w"] == 250
    assert all(cell is None for name, cell in after.items() if name.startswith("gpu0_"))
    assert (after["gpu1_power_w"], after["ram_total_mb"]) == (250, before["ram_total_mb"])


def test_a_gpu_unknown_to_the_driver_has_empty_cells(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=0)
    assert set(nvml.run(READ_GPU_0.replace("set_values(", "dict(")).values()) == {None}


def test_memory_of_other_processes_is_not_the_trials(nvml: NvmlStandIn) -> None:
    row = nvml.run(READ_GPU_0.replace("{os.getpid()}:", "1:"))
    assert row["process_memory_mb"] is None


# The energy of a GPU

LOG_90_SECONDS = """
import json, os
from pathlib import Path
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import HardwareReader, column_names
now, changes = 1000.0, json.loads(os.environ["CHANGES"])
set_values(now_s=now)
reader = HardwareReader([gpu_uuid(0)], os.getpid(), clock=lambda: now)
log = HardwareLog(Path(os.environ["LOG"]), column_names(1))
for row in range(91):
    set_values(now_s=now, **changes.get(str(row), {}))
    log.append(reader.read())
    now += 1
print(0)
"""
BASE_W, SWING_W, PERIOD_S = 300.0, 250.0, 37.0
JOULES = BASE_W * 90 + SWING_W * PERIOD_S / (2 * math.pi) * (
    math.cos(2 * math.pi * 1000 / PERIOD_S) - math.cos(2 * math.pi * 1090 / PERIOD_S)
)
COUNTER, POWER = "error__nvmlDeviceGetTotalEnergyConsumption", "error__nvmlDeviceGetPowerUsage"


def missing(*names: str) -> dict[int, dict[str, Any]]:
    """Return changes that make the values unreadable in the rows 20 to 22, 50 and 75 to 79."""
    gone = dict.fromkeys(names, 999)
    return {row: gone if row in (20, 50, 75) else dict.fromkeys(gone) for row in (20, 23, 50, 51, 75, 80)}


RESET = {40: {"gpu__energy_offset_mj": -1_010_000 * 300}}  # to a tenth of what the counter was


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({}, {}),
        ({}, missing(COUNTER)),
        ({}, missing(COUNTER, POWER)),
        ({"gpu__energy_modulo_mj": 5_000_000}, {}),
        ({"gpu__energy_modulo_mj": 5_000_000}, missing(COUNTER)),
        ({"gpu__energy_modulo_mj": 30_000_000}, missing(COUNTER, POWER)),
        ({}, RESET),
        ({COUNTER: 3}, {}),
        ({COUNTER: 3}, missing(POWER)),
    ],
    ids=[
        "counter", "missing counter", "missing both", "wraps", "wraps and missing counter", "wraps and missing both",
        "reset", "no counter", "no counter and missing power",
    ],
)  # fmt: skip
def test_the_energy_is_within_one_percent_of_the_integral_of_a_varying_power(
    nvml: NvmlStandIn, tmp_path: Path, values: dict[str, Any], changes: dict[int, dict[str, Any]]
) -> None:
    nvml.set(gpu__power_mw=BASE_W * 1000, gpu__swing_mw=SWING_W * 1000, gpu__period_s=PERIOD_S, **values)
    nvml.run(LOG_90_SECONDS, LOG=str(tmp_path / "log.csv"), CHANGES=json.dumps(changes))
    assert gpu_watt_hours(tmp_path / "log.csv") == pytest.approx(JOULES / 3600, rel=0.01)
    assert abs(JOULES - BASE_W * 90) > 0.02 * JOULES  # a constant power would be seen
    energy = read_log(tmp_path / "log.csv")["gpu0_energy_j"].dropna()
    assert len(energy) in ((0,) if values.get(COUNTER) else (91, 91 - 9))
    assert energy.is_monotonic_increasing


def test_an_energy_counter_that_falls_without_any_power_reading_adds_nothing() -> None:
    meter = EnergyCounter()
    counters = (5000, 7000, 1000, None, 4000)
    assert [meter.add(counter, None, now) for now, counter in enumerate(counters)] == [0.0, 2.0, 2.0, None, 5.0]


def test_power_that_the_counter_has_counted_bridges_no_fall() -> None:
    meter = EnergyCounter()
    meter.add(0, 100.0, 0.0)
    meter.add(1_000_000, None, 10.0)  # the power is missing in the row before the counter falls
    assert meter.add(0, 200.0, 12.0) == 1000 + 2 * (100 + 200) / 2
