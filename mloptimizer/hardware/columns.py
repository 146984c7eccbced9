"""Defines a column of the hardware log, and the columns that say what the training was doing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MAX_ROWS = 10_000  # of a log: almost three hours at a row a second before the first are merged; 12 MB with 8 GPUs
SHORTEST_RATE_SECONDS = 0.05  # counters move in steps of up to 0.01 s: rates over less are noise

Cell = float | str | None
"""A number or a word; None where it could not be read."""
Row = Mapping[str, Cell]
"""A row of the hardware log, by column name."""


@dataclass(frozen=True)
class Column:
    """A column of the hardware log."""

    name: str
    unit: str
    meaning: str
    source: str
    merge: Literal["mean", "max", "last"] = "mean"  # how two rows become one when a long log is thinned
    is_text: bool = False


TIME_COLUMNS = (
    Column("time_utc", "ISO 8601", "when the row was read, in UTC", "the machine's clock", "last", is_text=True),
    Column("seconds", "s", "since the log began; restarts at 0 when a log is continued", "monotonic clock", "last"),
)

PARTS = ("setup", "build", "first_step", "training", "validation", "checkpoint", "save")
"""What a trial's process does, in the order in which it first does it; between these it does something else."""

TRAINING_COLUMNS = (
    Column("part", "word", f"what the trial was doing: {', '.join(PARTS)}; empty: something else",
           "the training", "last", is_text=True),
    *(Column(name, unit, meaning, "the training", "last") for name, unit, meaning in (
        ("epoch", "count", "current epoch, from 1; 0 before the first"),
        ("step", "count", "training steps finished, including those before a checkpoint"))),
    Column("images_per_second", "1/s", "training images since the previous row, in finished steps", "the training"),
    Column("data_wait_percent", "%", "share of the time since the previous row that the training waited for images",
           "the training"),
    *(Column(name, unit, meaning, "the training", "last") for name, unit, meaning in (
        ("images", "count", "training images since the log began"),
        ("data_wait_s", "s", "time spent waiting for images since the log began; counted when the wait ends"),
        *((f"{part}_s", "s", f"time spent in {part} since the log began") for part in PARTS))),
    Column("trials_on_gpu", "count", "trials sharing the slot's GPUs, including this one; 1 without a GPU",
           "the search", "last"),
    Column("trials_on_cores", "count", "trials sharing the slot's cores, including this one; all trials on the machine "
           "if the slot has no cores of its own", "the search", "last"),
)  # fmt: skip


def numeric_cell(row: Row, name: str) -> float | None:
    """Return the number in that column; None where there is none."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else None
