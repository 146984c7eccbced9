"""Shortens a long hardware log by merging pairs of its older rows, so that its resolution falls with age.

A merged row takes the place of its second row. Each column defines how its cells merge: their mean, weighted by the
time that each stands for, so that sums over time stay the same; the higher one, where the peak counts; or the second,
for values that only grow. Empty cells do not count. The first row of every attempt is kept, and rows of two
attempts are never merged.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from mloptimizer.hardware.columns import Column

_Cells = list[bytes]
_Merge = Callable[[bytes, bytes, float], bytes]  # the cells, and the share of the time that the first stands for


def thin(lines: Iterable[bytes], columns: Sequence[Column | None], seconds: int, older: int) -> Iterator[bytes]:
    """Yield the lines of a log without its header, with pairs of the first `older` lines merged.

    Args:
        lines: each with its line end; lines to merge that have a wrong number of cells are dropped.
        columns: what the cells of a line are; None: unknown, the second cell stays.
        seconds: the index of the column that restarts at 0 with every attempt.
        older: how many lines are merged.
    """
    merges = [_merge_of(column) for column in columns]
    first: tuple[float, _Cells] | None = None  # time and cells of the row that waits for its second
    before = math.inf  # time of the row before that
    for number, line in enumerate(lines):
        if first is None and number >= older:
            yield line
            continue
        cells = line.rstrip(b"\n").split(b",")
        if len(cells) != len(merges):
            continue
        now = _number(cells[seconds])
        restarts = not now >= (first[0] if first else before)
        if first is None and not restarts:
            first = (now, cells)
            continue
        if first and restarts:
            yield _line(first[1])
        elif first:
            share = (first[0] - before) / (now - before) if now > before else 0.5
            pairs = zip(merges, first[1], cells, strict=True)
            cells = [a if a == b else merge(a, b, share) for merge, a, b in pairs]
        yield _line(cells)
        first, before = None, now
    if first:
        yield _line(first[1])


def _line(cells: _Cells) -> bytes:
    return b",".join(cells) + b"\n"


def _number(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _merge_of(column: Column | None) -> _Merge:
    if column is not None and column.is_text:
        return lambda first, second, share: second  # an empty word has a meaning too
    if column is None or column.merge == "last":
        return lambda first, second, share: second or first
    return _mean if column.merge == "mean" else _higher


def _higher(first: bytes, second: bytes, share: float) -> bytes:
    return first if not second or _number(first) > _number(second) else second


def _mean(first: bytes, second: bytes, share: float) -> bytes:
    if not first or not second:
        return first or second
    mean = share * _number(first) + (1 - share) * _number(second)
    return str(round(mean, 3)).encode() if math.isfinite(mean) else second
