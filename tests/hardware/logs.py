"""Logs and rows for the tests."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import columns


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
    log = HardwareLog(path, columns(gpus))
    for row in rows:
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", **row})
    log.close()
    return path
