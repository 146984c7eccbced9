"""Reads a row at every interval, in a thread of its own that never disturbs the training."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Self

from mloptimizer.hardware.columns import Row
from mloptimizer.hardware.read.reader import HardwareReader

_logger = logging.getLogger(__name__)

HANGING_SECONDS = 5.0  # how long the end of a trial waits for a driver that hangs


def next_tick(tick: int, elapsed: float, interval: float) -> int:
    """Return the number of the next tick due after `tick`: a small delay skips none, a longer one some.

    Tick n is due n * interval after the start, so that delays do not add up.
    """
    return max(tick + 1, math.ceil(elapsed / interval))


class Monitor:
    """Reads a row at once, one every interval, and one at the end, in its own thread, then closes the reader.

    A row that cannot be read or passed on is lost: the first is logged as a warning, and `lost_rows` counts them all.
    The trial never notices.
    """

    def __init__(self, reader: HardwareReader, interval_seconds: float, emit_row: Callable[[Row], None]) -> None:
        self._reader = reader
        self._interval = interval_seconds
        self._emit_row = emit_row
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hardware-log", daemon=True)
        self.lost_rows = 0

    def stop(self) -> None:
        """Read the last row; return when it was passed on, or after 5 s if the driver hangs."""
        self._end.set()
        self._thread.join(HANGING_SECONDS)
        if self._thread.is_alive():
            _logger.warning("hardware log: a reading did not end within %g s; its last row is lost.", HANGING_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        start, tick, ended = time.monotonic(), 0, False
        while not ended:
            self._pass_row()
            tick = next_tick(tick, time.monotonic() - start, self._interval)
            ended = self._end.wait(start + tick * self._interval - time.monotonic())
        self._pass_row()
        self._reader.close()

    def _pass_row(self) -> None:
        try:
            self._emit_row(self._reader.read())
        except Exception as error:  # the caller's code may raise anything, and a thread must not end silently
            self.lost_rows += 1
            if self.lost_rows == 1:
                _logger.warning("hardware log: a row is lost: %s: %s", type(error).__name__, error, exc_info=True)
