"""Logs and rows for the tests."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mloptimizer.hardware.analysis.summary import meter_energy
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import column_names


def spend_processor_seconds(seconds: float) -> float:
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        pass
    return spent


class Ramp:
    """A reader whose rows count up; it sets `reached` once it read as many as a test waits for."""

    def __init__(self, rows: int) -> None:
        self.read_rows, self.wanted, self.closed = 0, rows, False
        self.reached = threading.Event()

    def read(self) -> Mapping[str, float | str | None]:
        self.read_rows += 1
        if self.read_rows >= self.wanted:
            self.reached.set()
        return {"seconds": float(self.read_rows)}

    def close(self) -> None:
        self.closed = True


def gpu_log(path: Path, rows: list[dict[str, float]], gpus: int = 1) -> Path:
    log = HardwareLog(path, column_names(gpus))
    for row in rows:
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", **row})
    log.close()
    return path


def read_log(path: Path) -> pd.DataFrame:
    """Return the whole rows of a log."""
    trace = read_trace(path)
    columns = {name: trace.values[name] if name in trace.values else trace.texts[name] for name in trace.header}
    table = pd.DataFrame(columns).replace("", None)
    return table.assign(time_utc=pd.to_datetime(table["time_utc"], errors="coerce", format="ISO8601"))


def gpu_watt_hours(path: Path) -> float | None:
    """Return the energy of all GPUs that a log tells."""
    joules = meter_energy(read_trace(path), 1).gpu_joules
    return None if joules is None else joules / 3600
