"""What one run of a search may use, and when it has reached what it was for."""

from pathlib import Path
from typing import Any

import pytest

from mloptimizer.budgets import Budgets, EnergyMeter, find_target_stop, folder_mb
from mloptimizer.records import HardwareSample
from mloptimizer.settings import Settings


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def row(number: int, seconds: float, **cells: float | None) -> HardwareSample:
    return HardwareSample(number, {"seconds": seconds, **cells})


def test_hours_count_from_the_beginning_of_the_run() -> None:
    time = Time()
    budgets = Budgets(Settings(max_hours=2), time, lambda: 0.0)
    time.seconds += 7199
    assert budgets.find_stop() is None
    time.seconds += 1
    stop = budgets.find_stop()
    assert stop is not None and stop.reason == "max_hours = 2 have passed" and not stop.reached


def test_without_limits_nothing_stops() -> None:
    time = Time()
    budgets = Budgets(Settings(), time, lambda: 1e12)
    time.seconds += 1e9
    assert budgets.find_stop() is None


def test_energy_is_that_of_the_counters_of_all_gpus() -> None:
    meter = EnergyMeter()
    for seconds in range(5):
        meter.add(row(1, seconds, gpu0_power_w=1.0, gpu0_energy_j=100.0 * seconds, gpu1_power_w=1.0, gpu1_energy_j=7.0))
        meter.add(row(2, seconds, gpu0_power_w=1.0, gpu0_energy_j=50.0 * seconds))
    assert meter.joules == 600.0


def test_without_a_counter_the_power_is_integrated() -> None:
    meter = EnergyMeter()
    for seconds, power in ((0.0, 100.0), (2.0, 300.0), (3.0, 300.0)):
        meter.add(row(1, seconds, gpu0_power_w=power, gpu0_energy_j=None))
    assert meter.joules == 2 * 200 + 300


def test_a_log_that_begins_anew_counts_from_there() -> None:
    meter = EnergyMeter()
    for seconds, energy in ((0.0, 0.0), (10.0, 1000.0), (0.0, 0.0), (1.0, 50.0)):
        meter.add(row(1, seconds, gpu0_power_w=1.0, gpu0_energy_j=energy))
    assert meter.joules == 1050.0


def test_used_energy_stops_the_run() -> None:
    budgets = Budgets(Settings(max_kwh=0.001), Time(), lambda: 0.0)
    budgets.spend(row(1, 0.0, gpu0_power_w=3600.0, gpu0_energy_j=None))
    assert budgets.find_stop() is None
    budgets.spend(row(1, 1.0, gpu0_power_w=3600.0, gpu0_energy_j=None))
    stop = budgets.find_stop()
    assert stop is not None and "max_kwh = 0.001" in stop.reason


def test_the_disk_is_looked_at_now_and_then() -> None:
    time, used = Time(), [10.0]
    budgets = Budgets(Settings(max_disk_mb=20), time, lambda: used[0])
    assert budgets.find_stop() is None
    used[0] = 21.0
    time.seconds += 6
    stop = budgets.find_stop()
    assert stop is not None and stop.reason == "the study takes 21 MB of max_disk_mb = 20"


def test_a_folder_takes_what_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * (3 << 20))
    assert folder_mb(tmp_path, tmp_path / "missing") == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
    ("objective", "target", "best", "stops"),
    [
        ("val_accuracy", 0.9, 0.9, True),
        ("val_accuracy", 0.9, 0.89, False),
        ("val_loss", 0.5, 0.4, True),
        ("val_loss", 0.5, 0.6, False),
    ],
)
def test_a_target_is_reached_from_its_side(objective: Any, target: float, best: float, stops: bool) -> None:
    stop = find_target_stop(Settings(objective=objective, target=target), (3, best))
    assert (stop is not None and stop.reached) == stops
    assert find_target_stop(Settings(objective=objective, target=target), None) is None
