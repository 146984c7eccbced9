"""Says from rows of a hardware log how much power was drawn, in watts; None where no row tells."""

import re
import statistics
from collections.abc import Mapping, Sequence

from mloptimizer.hardware.columns import Cell

Row = Mapping[str, Cell]
_LEAST_SECONDS = 1.0  # that a counter of energy needs to tell power: it moves about ten times a second


def gpu_watts(rows: Sequence[Row]) -> float | None:
    """Return the mean power of all GPUs of the rows together: of their energy counters, or else as they tell power."""
    gpus = sorted({found[1] for name in (rows[-1] if rows else ()) if (found := re.match(r"(gpu\d+)_power_w$", name))})
    watts = [_gain_per_second(rows, f"{gpu}_energy_j") or _mean(rows, f"{gpu}_power_w") for gpu in gpus]
    known = [figure for figure in watts if figure is not None]
    return sum(known) if known and len(known) == len(gpus) else None


def cpu_watts(rows: Sequence[Row]) -> float | None:
    """Return the mean power of the machine's CPU packages."""
    return _gain_per_second(rows, "cpu_energy_j")


def _gain_per_second(rows: Sequence[Row], column: str) -> float | None:
    told = [(row["seconds"], row[column]) for row in rows if _is_number(row.get("seconds"), row.get(column))]
    if not told:
        return None
    (begin, before), (end, after) = told[0], told[-1]
    seconds, joules = float(end or 0) - float(begin or 0), float(after or 0) - float(before or 0)
    return joules / seconds if seconds >= _LEAST_SECONDS and joules > 0 else None


def _mean(rows: Sequence[Row], column: str) -> float | None:
    figures = [float(row[column] or 0) for row in rows if _is_number(row.get(column))]
    return statistics.fmean(figures) if figures else None


def _is_number(*cells: Cell) -> bool:
    return all(isinstance(cell, (int, float)) for cell in cells)
