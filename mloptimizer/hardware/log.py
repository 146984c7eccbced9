"""Records what the machine does during a trial, one row per interval, and reads such records back.

A hardware log is a CSV file with one writer. A kill leaves at most a torn last line, which is left out when the log is
read and cut off when it is continued. A figure that cannot be read is an empty cell, and nothing here ends a trial.
"""

import errno
import io
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from mloptimizer.errors import UsageError
from mloptimizer.files import file_error, when_there_is_room
from mloptimizer.hardware.machine import MACHINE_COLUMNS, MachineReader
from mloptimizer.hardware.nvml import GPU_COLUMNS, Column, GpuReader, close_nvml, open_nvml

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, float | str | None]
logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # how long the end of a trial waits for a driver that hangs

TIME_COLUMNS = (
    Column("time_utc", "ISO 8601", "when the row was read, in UTC", "clock of the machine"),
    Column("seconds", "s", "since the log began; starts anew where a log was continued", "monotonic clock"),
)


def columns(gpu_count: int) -> list[str]:
    """Return the header of the log of a slot with so many GPUs."""
    gpus = [f"gpu{index}_{column.name}" for index in range(gpu_count) for column in GPU_COLUMNS]
    return [column.name for column in TIME_COLUMNS] + gpus + [column.name for column in MACHINE_COLUMNS]


class HardwareReader:
    """Reads one row after the other; to be made in the process that reads, as NVML does not survive a fork."""

    def __init__(self, gpu_ids: Sequence[str], pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin the log's time.

        Args:
            gpu_ids: NVML UUIDs of the slot's GPUs; gpu0 is the first of them.
            pid: the trial's process.
            clock: seconds from any origin.
        """
        self._clock = clock
        self._start = clock()
        self._columns = columns(len(gpu_ids))
        self._nvml_is_open = bool(gpu_ids) and open_nvml()
        self._gpus = [GpuReader(uuid) if self._nvml_is_open else None for uuid in gpu_ids]
        self._machine = MachineReader(pid, self._start)

    def read(self) -> dict[str, float | str | None]:
        """Return a row by column, in the order of `columns`; None for what cannot be read now."""
        now = self._clock()
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        machine = self._machine.read(now)
        cells: list[float | str | None] = [stamp, now - self._start]
        for gpu in self._gpus:
            cells += gpu.read(self._machine.pids) if gpu else [None] * len(GPU_COLUMNS)
        return dict(zip(self._columns, [*cells, *machine], strict=True))

    def close(self) -> None:
        """Let go of NVML; the GPUs' cells are empty from now on."""
        self._gpus = [None] * len(self._gpus)
        if self._nvml_is_open:
            self._nvml_is_open = False
            close_nvml()


class Reader(Protocol):
    """What a monitor reads from."""

    def read(self) -> Row: ...

    def close(self) -> None: ...


def next_tick(tick: int, elapsed: float, interval: float) -> int:
    """Return the number of the tick after `tick` that is due next: late by a little, none is missed; by more, some are.

    Tick n is due n * interval after the start, so that no lateness adds up.
    """
    return max(tick + 1, math.ceil(elapsed / interval))


class Monitor:
    """Reads a row at once, one every interval, and one at the end, in a thread of its own, then closes the reader.

    A row that cannot be read or passed on is lost: the first is logged as a warning, and all are counted in
    `lost_rows`. The trial never notices.
    """

    def __init__(self, reader: Reader, interval_seconds: float, emit_row: Callable[[Row], None]) -> None:
        self._reader = reader
        self._interval = interval_seconds
        self._emit_row = emit_row
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hardware-log", daemon=True)
        self.lost_rows = 0

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read the last row, and return when it was passed on, or after 5 s if the driver hangs."""
        self._end.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            logger.warning("hardware log: a reading has not ended within %g s; its last row is lost.", STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
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
        except Exception as error:  # the caller's code may raise anything, and a thread must not end in silence
            self.lost_rows += 1
            if self.lost_rows == 1:
                logger.warning("hardware log: a row is lost: %s: %s", type(error).__name__, error, exc_info=True)


class HardwareLog:
    """Appends rows to a log, each in one write; a log that is there already is continued."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        """Open the log, and write its header if it has none.

        Raises:
            UsageError: the file cannot be written, or has other columns.
            RunError: the disk is full or failed.
        """
        self._path = path
        self._header = header
        there = ""

        def open_log() -> None:
            nonlocal there
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            there = _cut_torn_line(self._file).decode(errors="replace").partition("\n")[0]
            if not there:
                self._write(",".join(header))

        when_there_is_room(path, open_log)
        if there not in ("", ",".join(header)):
            self.close()
            raise UsageError(f"{path}: has other columns than this slot's log. Move it away, or remove it.")

    def append(self, row: Row) -> None:
        """Append the row, with an empty cell for None, not-a-number and missing columns.

        Raises:
            RunError: the disk is full or failed; no part of the row stays.
        """
        try:
            self._write(",".join(_cell(row.get(name)) for name in self._header))
        except OSError as error:
            raise file_error(self._path, error) from error

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        if self._file.write(data) != len(data):
            _cut_torn_line(self._file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # only a part of it could be written

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(file: io.FileIO) -> bytes:
    """Remove a last line without an end and return the rest: closed, half a number would read as a whole one."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    return whole


def _cell(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or not math.isfinite(value) else str(round(value, 3))


def read_log(path: Path) -> "pd.DataFrame":
    """Return the whole rows of a log, in the columns and units of the README beside it.

    Raises:
        UsageError: the file is missing, unreadable or no hardware log.
    """
    import pandas as pd

    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what stands after the last line's end is torn
    except OSError as error:
        raise file_error(path, error) from error
    if not lines or not lines[0].startswith(b"time_utc,seconds,"):
        raise UsageError(f"{path}: is no hardware log. Possible: a file that a search wrote.")
    whole = [line for line in lines if line.count(b",") == lines[0].count(b",")]
    figures = dict.fromkeys(lines[0].decode().split(",")[1:], "float64")
    return pd.read_csv(io.BytesIO(b"\n".join(whole)), parse_dates=["time_utc"], dtype=figures)


@dataclass(frozen=True)
class LogSummary:
    """What a log says about a trial."""

    rows: int
    duration_s: float
    gpu_energy_wh: float | None  # of all its GPUs; None without a GPU that tells its energy or power
    figures: "pd.DataFrame"  # by column of the log: mean and peak


def summarise_log(path: Path) -> LogSummary:
    """Return means, peaks, duration and energy of a log; a torn last line is left out.

    The energy of a GPU is what its counter gained; without a counter it is the power integrated by the trapezoid rule.

    Raises:
        UsageError: the file is missing, unreadable or no hardware log.
    """
    table = read_log(path)
    begins_anew = table["seconds"].diff() < 0
    parts = [part for _, part in table.groupby(begins_anew.cumsum())]
    gpus = [name.removesuffix("_energy_j") for name in table.columns if name.endswith("_energy_j")]
    joules = [energy for part in parts for gpu in gpus if (energy := _energy_j(part, gpu)) is not None]
    figures = table.drop(columns=["time_utc", "seconds", *(f"{gpu}_energy_j" for gpu in gpus)])
    return LogSummary(
        rows=len(table),
        duration_s=float(sum(part["seconds"].max() - part["seconds"].min() for part in parts)),
        gpu_energy_wh=sum(joules) / 3600 if joules else None,
        figures=figures.agg(["mean", "max"]).T.rename(columns={"max": "peak"}),
    )


def _energy_j(part: "pd.DataFrame", gpu: str) -> float | None:
    import numpy as np

    counter = part[f"{gpu}_energy_j"].dropna()
    if len(counter) > 1:
        return float(counter.iloc[-1] - counter.iloc[0])
    power = part[["seconds", f"{gpu}_power_w"]].dropna()
    return float(np.trapezoid(power[f"{gpu}_power_w"], power["seconds"])) if len(power) > 1 else None


_README = """# Hardware logs

`STUDY/trial_00007.csv` says what the machine did while trial 7 of the study STUDY was trained, one row every
`monitor_seconds` (`hall_of_fame_00007.csv`: while it was trained on). One line reads it:

```python
pandas.read_csv("STUDY/trial_00007.csv")
```

An empty cell is a figure that could not be read: a GPU without that counter, a GPU that was lost, the first row of a
mean since the row before, or two rows less than 0.05 s apart. One MB is 2**20 bytes.

GPUs are numbered in the order in which the trial saw them: `gpu0_`, `gpu1_` and so on stand before the names of their
columns. A machine without NVIDIA's library or GPUs has none of these columns.
"""


def render_log_readme() -> str:
    """Return the README of the folder of hardware logs: every column with its unit, its meaning and its source."""
    lines = [_README, "| column | unit | meaning | source |", "|---|---|---|---|"]
    described = (*TIME_COLUMNS, *GPU_COLUMNS, *MACHINE_COLUMNS)
    for name, column in zip(columns(1), described, strict=True):
        lines.append(f"| `{name}` | {column.unit} | {column.meaning} | {column.source} |")
    return "\n".join(lines) + "\n"
