"""Reads a hardware log into arrays: its whole rows by column, the attempts that wrote them, and the time that each row
stands for.

A torn last line, a line with too few cells or a cell that is not a number never hides the rest. A column that the log
lacks, for instance one from an earlier version, reads as if all its cells were empty (not-a-number).
"""

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mloptimizer.core.errors import UsageError
from mloptimizer.core.system_errors import file_error
from mloptimizer.hardware.columns import TIME_COLUMNS, TRAINING_COLUMNS

Values = NDArray[np.float64]
_TEXT_COLUMNS = {column.name for column in (*TIME_COLUMNS, *TRAINING_COLUMNS) if column.is_text}
_ABSURD = 1e30  # only in damaged logs: below it, sums of squares and sums over many rows stay finite


@dataclass(frozen=True)
class Trace:
    """What a log contains. Every array has an entry per row.

    `spans` is the time since the previous row, s; for an attempt's first row, since its log began. `weights` is the
    time that a row stands for, s, half the time to each neighbouring row: rows of a thinned log are not evenly spaced,
    and a mean weighted this way is the integral by the trapezoid rule. Both add up to the duration.
    """

    header: tuple[str, ...]
    values: Mapping[str, Values]
    texts: Mapping[str, tuple[str, ...]]
    attempts: tuple[slice, ...]  # the rows of each: `seconds` restarts with every one
    spans: Values
    weights: Values

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def duration_s(self) -> float:
        """The time that all attempts took together, s."""
        return float(self.spans.sum())

    def column(self, name: str) -> Values:
        """Return the column's values, not-a-number where a cell is empty or the log lacks the column."""
        found = self.values.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def has_values(self, name: str) -> bool:
        """Return whether the log has a value in that column."""
        return bool(np.isfinite(self.column(name)).any())

    def part(self) -> tuple[str, ...] | None:
        """Return what the trial was doing at each row (see `PARTS`), None if the log never says."""
        words = self.texts.get("part", ())
        return words if any(words) else None

    def gpus(self) -> list[str]:
        """Return the GPUs of which the log has any values, as gpu0, gpu1 and so on."""
        names = [(int(found[1]), name) for name in self.header if (found := re.match(r"gpu(\d+)_", name))]
        return [f"gpu{index}" for index in sorted({index for index, name in names if self.has_values(name)})]

    def of_gpus(self, name: str) -> list[Values]:
        """Return the column of each GPU, in the order of `gpus`."""
        return [self.column(f"{gpu}_{name}") for gpu in self.gpus()]


def read_trace(path: Path) -> Trace:
    """Return the whole rows of a log. Raises UsageError: the file is missing, unreadable or not a hardware log."""
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]  # text behind the last line end is torn
    except OSError as error:
        raise file_error(path, error) from error
    try:
        header, *rows = csv.reader(lines or [""], quoting=csv.QUOTE_NONE)
    except csv.Error as error:
        raise UsageError(f"{path}: is not a hardware log ({error}). Possible: a file that a search wrote.") from error
    if header[:2] != ["time_utc", "seconds"]:
        raise UsageError(f"{path}: is not a hardware log. Possible: a file that a search wrote.")
    return _make_trace(header, [row for row in rows if len(row) == len(header)])


def _make_trace(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Trace:
    rows = [row for row in rows if np.isfinite(_number(row[1]))]
    cells = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    values = {name: np.array([_number(cell) for cell in cells[name]]) for name in header if name not in _TEXT_COLUMNS}
    texts = {name: tuple(cells[name]) for name in header if name in _TEXT_COLUMNS}
    starts = np.flatnonzero(np.diff(values["seconds"], prepend=np.inf) < 0).tolist()
    attempts = tuple(slice(start, end) for start, end in itertools.pairwise([*starts, len(rows)]))
    return Trace(tuple(header), values, texts, attempts, *_weigh(values["seconds"], attempts))


def _number(cell: str) -> float:
    """Return the cell as a number that hardware can have, and not-a-number for any other."""
    try:
        value = float(cell) if cell else np.nan
    except ValueError:
        return np.nan
    return value if abs(value) < _ABSURD else np.nan


def _weigh(seconds: Values, attempts: Sequence[slice]) -> tuple[Values, Values]:
    spans, weights = np.zeros(len(seconds)), np.zeros(len(seconds))
    for rows in attempts:
        steps = np.diff(seconds[rows], prepend=0.0)
        half = steps / 2
        half[0] = steps[0]  # nothing precedes the first row: it stands for all the time until then
        spans[rows] = steps
        weights[rows] = half + np.append(steps[1:] / 2, 0.0)
    return spans, weights


def weighted_mean(values: Values, weights: Values) -> float | None:
    """Return the weighted mean of the known values, None if none is known."""
    known = np.isfinite(values)
    total = float(weights[known].sum())
    if total > 0:
        return float((values[known] * weights[known]).sum() / total)
    return float(values[known].mean()) if known.any() else None


def weighted_percentile(values: Values, weights: Values, percent: float) -> float | None:
    """Return the smallest known value that `percent` % of the weight do not exceed, None if none is known."""
    known = np.isfinite(values)
    if not known.any():
        return None
    order = np.argsort(values[known], kind="stable")
    reached = np.cumsum(weights[known][order])
    place = int(np.searchsorted(reached, percent / 100 * reached[-1] * (1 - 1e-12)))
    return float(values[known][order][min(place, len(order) - 1)])


def highest(values: Values) -> float | None:
    """Return the highest known value, None if none is known."""
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else None


def over_columns(columns: Sequence[Values]) -> Values:
    """Return the mean of the columns at every row, over those that are known there."""
    stacked = np.array(columns)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
