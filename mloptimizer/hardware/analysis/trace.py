"""Reads a hardware log into arrays: its whole rows by column, the attempts that wrote them, and the time each row
stands for.

A torn last line, a line with too few cells and a cell that is no number never hide the rest. A column that the log does
not have, as in one of an earlier version, reads as one whose cells are all empty (not-a-number).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mloptimizer.core.errors import UsageError
from mloptimizer.core.system_errors import file_error
from mloptimizer.hardware.columns import TIME_COLUMNS, TRAINING_COLUMNS

Figures = NDArray[np.float64]
_WORDS = {column.name for column in (*TIME_COLUMNS, *TRAINING_COLUMNS) if column.is_text}
_BEGINS_WITH = ["time_utc", "seconds"]
_ABSURD = 1e30  # of a damaged log: sums of squares and of many rows stay finite below it


@dataclass(frozen=True)
class Trace:
    """What a log says. Every array has an entry per row.

    `spans` is the time since the row before, s; of an attempt's first row, since its log began. `weights` is the time
    that a row stands for, s, half of the times to the rows beside it: rows of a thinned log are not equally far apart,
    and a mean weighted so is the integral by the trapezoid rule. Both add up to the duration.
    """

    header: tuple[str, ...]
    figures: Mapping[str, Figures]
    words: Mapping[str, tuple[str, ...]]
    attempts: tuple[slice, ...]  # the rows of each: `seconds` starts anew with every one
    spans: Figures
    weights: Figures

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def seconds(self) -> Figures:
        """The time since the attempt's log began, s."""
        return self.figures["seconds"]

    @property
    def duration_s(self) -> float:
        """What all attempts took together, s."""
        return float(self.spans.sum())

    def column(self, name: str) -> Figures:
        """Return the figures of the column, not-a-number where a cell is empty; all are where the log has none."""
        found = self.figures.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def knows(self, name: str) -> bool:
        """Whether the log has a figure in that column."""
        return bool(np.isfinite(self.column(name)).any())

    def part(self) -> tuple[str, ...] | None:
        """Return what the trial was doing at each row (see `PARTS`), None where the log never tells."""
        words = self.words.get("part", ())
        return words if any(words) else None

    def gpus(self) -> list[str]:
        """Return the GPUs of which the log tells anything, as gpu0, gpu1 and so on."""
        names = [(int(found[1]), name) for name in self.header if (found := re.match(r"gpu(\d+)_", name))]
        return [f"gpu{index}" for index in sorted({index for index, name in names if self.knows(name)})]

    def of_gpus(self, name: str) -> list[Figures]:
        """Return the column of each GPU, in the order of `gpus`."""
        return [self.column(f"{gpu}_{name}") for gpu in self.gpus()]


def read_trace(path: Path) -> Trace:
    """Return the whole rows of a log. Raises UsageError: the file is missing, unreadable or no hardware log."""
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]  # what stands behind the last end is torn
    except OSError as error:
        raise file_error(path, error) from error
    if not lines or lines[0].rstrip("\r").split(",")[:2] != _BEGINS_WITH:
        raise UsageError(f"{path}: is no hardware log. Possible: a file that a search wrote.")
    try:
        header, *rows = csv.reader(lines, quoting=csv.QUOTE_NONE)
    except csv.Error as error:
        raise UsageError(f"{path}: is no hardware log ({error}). Possible: a file that a search wrote.") from error
    return make_trace(header, [row for row in rows if len(row) == len(header)])


def make_trace(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Trace:
    """Return the trace of rows of cells; a row without a time is left out."""
    at = list(header).index("seconds")
    rows = [row for row in rows if np.isfinite(_number(row[at]))]
    cells = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    figures = {name: np.array([_number(cell) for cell in cells[name]]) for name in header if name not in _WORDS}
    words = {name: tuple(cells[name]) for name in header if name in _WORDS}
    attempts = _split(figures["seconds"])
    spans, weights = _weigh(figures["seconds"], attempts)
    return Trace(tuple(header), figures, words, attempts, spans, weights)


def _number(cell: str) -> float:
    """Return the cell as a number that hardware can have, and not-a-number for any other."""
    try:
        value = float(cell) if cell else np.nan
    except ValueError:
        return np.nan
    return value if abs(value) < _ABSURD else np.nan


def _split(seconds: Figures) -> tuple[slice, ...]:
    if not len(seconds):
        return ()
    starts = [0, *(np.flatnonzero(np.diff(seconds) < 0) + 1)]
    ends = [*starts[1:], len(seconds)]
    return tuple(slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True))


def _weigh(seconds: Figures, attempts: Sequence[slice]) -> tuple[Figures, Figures]:
    spans, weights = np.zeros(len(seconds)), np.zeros(len(seconds))
    for rows in attempts:
        steps = np.diff(seconds[rows], prepend=0.0)
        half = steps / 2
        half[0] = steps[0]  # nothing is before the first row: it stands for all the time until then
        spans[rows] = steps
        weights[rows] = half + np.append(steps[1:] / 2, 0.0)
    return spans, weights


def weighted_mean(values: Figures, weights: Figures) -> float | None:
    """Return the mean of the known values by their weights, None where none is known."""
    known = np.isfinite(values)
    total = float(weights[known].sum())
    if total > 0:
        return float((values[known] * weights[known]).sum() / total)
    return float(values[known].mean()) if known.any() else None


def weighted_percentile(values: Figures, weights: Figures, percent: float) -> float | None:
    """Return the smallest known value that so many % of the weight do not exceed, None where none is known."""
    known = np.isfinite(values)
    if not known.any():
        return None
    order = np.argsort(values[known], kind="stable")
    reached = np.cumsum(weights[known][order])
    place = int(np.searchsorted(reached, percent / 100 * reached[-1] * (1 - 1e-12)))
    return float(values[known][order][min(place, len(order) - 1)])


def highest(values: Figures) -> float | None:
    """Return the highest known value, None where none is known."""
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else None


def over_columns(columns: Sequence[Figures]) -> Figures:
    """Return the mean over columns at every row, of those that are known there."""
    stacked = np.array(columns)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
