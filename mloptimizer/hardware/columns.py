"""What a column of the hardware log is, and those that say what the training did at the time of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MAX_ROWS = 10_000  # of a log: almost three hours at a row a second before the first are merged; 12 MB with 8 GPUs
SHORTEST_RATE_SECONDS = 0.05  # counters move in steps of up to 0.01 s: rates over less are noise

Cell = float | str | None
"""A figure or a word; None where it could not be read."""
Row = Mapping[str, Cell]
"""A row of the hardware log by the names of its columns."""


@dataclass(frozen=True)
class Column:
    """A column of the hardware log."""

    name: str
    unit: str
    meaning: str
    source: str
    merge: Literal["mean", "max", "last"] = "mean"  # how one row is made of two where a long log is thinned
    is_text: bool = False


TIME_COLUMNS = (
    Column("time_utc", "ISO 8601", "when the row was read, in UTC", "clock of the machine", "last", is_text=True),
    Column("seconds", "s", "since the log began; starts anew where a log was continued", "monotonic clock", "last"),
)

PARTS = ("setup", "build", "first_step", "training", "validation", "checkpoint", "save")
"""What a trial's process is doing, in the order in which it begins to; between them it does something else."""

TRAINING_COLUMNS = (
    Column("part", "word", f"what the trial was doing: {', '.join(PARTS)}; empty: something else",
           "the training", "last", is_text=True),
    Column("epoch", "count", "epoch under way, from 1; 0 before the first", "the training", "last"),
    Column("step", "count", "training steps made, those before a checkpoint included", "the training", "last"),
    Column("images_per_second", "1/s", "images trained on since the row before; of a step that is under way, none",
           "the training"),
    Column("data_wait_percent", "%", "share of the time since the row before in which the training waited for images",
           "the training"),
    Column("images", "count", "images trained on since the log began", "the training", "last"),
    Column("data_wait_s", "s", "waited for images since the log began; told when the wait ends", "the training",
           "last"),
    *(Column(f"{part}_s", "s", f"spent in the part {part} since the log began", "the training", "last")
      for part in PARTS),
    Column("trials_on_gpu", "count", "trials that the slot's GPUs were shared by, this one included; 1 without a GPU",
           "the search", "last"),
    Column("trials_on_cores", "count", "trials that the slot's cores were shared by, this one included; without cores "
           "of its own, all on the machine", "the search", "last"),
)  # fmt: skip


def row_figure(row: Row, name: str) -> float | None:
    """Return the row's figure in the column; None where there is none."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else None
