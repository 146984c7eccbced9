"""What one run of a search may use, and when it has reached what it was for."""

import os
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import HardwareSample
from mloptimizer.search.budgets import Budgets, find_target_stop, folder_mb


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


def test_the_energy_of_a_run_is_that_of_its_trials_gpus_and_of_their_part_of_the_processors() -> None:
    cores, budgets = os.cpu_count() or 1, Budgets(Settings(), Time(), lambda: 0.0)
    for seconds in range(11):
        for number in (1, 2):  # they share one GPU of 360 W, and the processors of 72 W
            cpu = {"cpu_energy_j": 72.0 * seconds, "cpu_percent": 100.0, "process_cpu_percent": 50.0 * cores}
            budgets.spend(row(number, seconds, gpu0_energy_j=360.0 * seconds, trials_on_gpu=2.0, **cpu))
    assert budgets.used_kwh == pytest.approx(10 * (360 + 72) / 3.6e6)


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
