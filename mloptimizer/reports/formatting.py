"""Formats values as short text for a terminal; a missing, infinite or not-a-number value is a dash, never 0."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

MISSING = "–"
_BARS = "▁▂▃▄▅▆▇█"


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is a finite number; True and False are not."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def short(value: object, digits: int = 4) -> str:
    """Return the value as text, floats with this many significant digits.

    >>> short(0.00123456), short(15_872_000.0), short(True), short(None)
    ('0.001235', '15872000', 'yes', '–')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _short_float(value, digits) if math.isfinite(value) else MISSING
    if isinstance(value, (list, tuple)):
        return ", ".join(short(item, digits) for item in value) or MISSING
    return MISSING if value is None else str(value) or MISSING


def _short_float(value: float, digits: int) -> str:
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{max(0, digits - 2)}e}"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def fixed(value: object, decimals: int = 4, unit: str = "") -> str:
    """Return the number with this many decimals, so that the numbers of a column line up."""
    return f"{value:.{decimals}f}{' ' + unit if unit else ''}" if is_number(value) else MISSING


def pairs(values: Mapping[str, object]) -> str:
    """Return the names with their values in one line."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items()) or MISSING


def duration(seconds: object, decimals: int = 1) -> str:
    """Return the time in its two largest units; the decimals apply to less than a minute.

    >>> duration(8.25), duration(8.25, 0), duration(75), duration(4000), duration(180_000), duration(None)
    ('8.2 s', '8 s', '1 min 15 s', '1 h 6 min', '2 d 2 h', '–')
    """
    if not is_number(seconds):
        return MISSING
    if round(seconds, decimals) < 60:
        return f"{seconds:.{decimals}f} s"
    whole = round(seconds)
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2])


def sparkline(values: Sequence[object], width: int = 60) -> str:
    """Return the curve as one line of bars, from the lowest to the highest value; a missing value is a dot.

    A longer curve is thinned to `width` bars, each the last value of its part.
    """
    if len(values) > width:
        values = [values[(index + 1) * len(values) // width - 1] for index in range(width)]
    known = [value for value in values if is_number(value)]
    if not known:
        return ""
    low, span = min(known), max(known) / 2 - min(known) / 2  # halves: the difference may overflow a float
    return "".join(_bar(value, low, span) for value in values)


def _bar(value: object, low: float, span: float) -> str:
    if not is_number(value):
        return "·"
    return _BARS[round((value / 2 - low / 2) / span * (len(_BARS) - 1))] if span else _BARS[len(_BARS) // 2]
