"""The thread that reads."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mloptimizer.hardware.read import monitor as monitor_module
from mloptimizer.hardware.read.monitor import Monitor, next_tick
from mloptimizer.hardware.read.reader import column_names
from tests.hardware.logs import Ramp
from tests.hardware.nvml.stand_in import NvmlStandIn


@pytest.mark.parametrize(
    ("tick", "elapsed", "expected"),
    [(0, 0.01, 1), (4, 4.2, 5), (4, 5.0, 5), (4, 7.3, 8), (4, 3.99, 5)],
)
def test_ticks_keep_to_the_interval_and_skip_what_a_late_reading_missed(
    tick: int, elapsed: float, expected: int
) -> None:
    assert next_tick(tick, elapsed, 1.0) == expected
    assert next_tick(tick, elapsed / 10, 0.1) == expected


def test_a_monitor_reads_at_once_at_every_tick_and_at_the_end() -> None:
    rows: list[Any] = []
    reader = Ramp(rows=5)
    with Monitor(reader, 0.01, rows.append):
        assert reader.reached.wait(30)
    assert len(rows) == reader.read_rows >= 5
    assert reader.closed


def test_a_short_trial_has_a_first_and_a_last_row() -> None:
    rows: list[Any] = []
    with Monitor(Ramp(rows=1), 60, rows.append):
        pass
    assert rows == [{"seconds": 1.0}, {"seconds": 2.0}]


def test_an_error_in_the_thread_is_logged_once_and_the_rows_after_it_come(caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Any] = []
    reader = Ramp(rows=6)
    with Monitor(reader, 0.01, _failing_twice(rows)) as monitor:
        assert reader.reached.wait(30)
    assert (monitor.lost_rows, len(rows)) == (2, reader.read_rows - 2)
    assert [record.getMessage() for record in caplog.records] == ["hardware log: a row is lost: OSError: disk full"]


def _failing_twice(rows: list[Any]) -> Callable[[Any], None]:
    def emit(row: Mapping[str, float]) -> None:
        if row["seconds"] <= 2:
            raise OSError("disk full")
        rows.append(row)

    return emit


def test_a_driver_that_hangs_does_not_hold_the_trial(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor_module, "HANGING_SECONDS", 0.05)
    reader, driver_answers = Ramp(rows=1), threading.Event()
    with Monitor(reader, 1.0, lambda _: driver_answers.wait(30)) as monitor:
        assert reader.reached.wait(30)
    assert "within 0.05 s" in caplog.text
    monkeypatch.setattr(monitor_module, "HANGING_SECONDS", 30)
    driver_answers.set()
    monitor.stop()
    assert reader.closed


def test_a_monitor_records_the_gpus_to_a_file_that_pandas_reads_in_one_line(nvml: NvmlStandIn, tmp_path: Path) -> None:
    code = """
import os, threading
from pathlib import Path
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.monitor import Monitor
from mloptimizer.hardware.read.reader import HardwareReader, column_names
log, rows = HardwareLog(Path(os.environ["LOG"]), column_names(2)), threading.Semaphore(0)
reader = HardwareReader([gpu_uuid(0), gpu_uuid(1)], os.getpid())
with Monitor(reader, 0.1, lambda row: (log.append(row), rows.release())):
    assert all(rows.acquire(timeout=30) for _ in range(3))
print(0)
"""
    nvml.run(code, LOG=str(tmp_path / "log.csv"))
    table = pd.read_csv(tmp_path / "log.csv")
    assert list(table.columns) == column_names(2)
    assert len(table) >= 4
    assert set(table["gpu1_power_w"]) == {250}
    seconds, joules = (table[name].iloc[-1] - table[name].iloc[0] for name in ("seconds", "gpu0_energy_j"))
    assert joules == pytest.approx(250 * seconds, rel=0.2, abs=3)
