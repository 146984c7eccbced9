"""Reports how long, and why, GPUs ran at lower clocks than they could, from a hardware log."""

import numpy as np

from mloptimizer.hardware.analysis.trace import Trace, Values, weighted_mean

_REASONS = {  # the bits of NVML's clocks event reasons
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "clocks kept equal to those of other GPUs",
    0x20: "temperature, by the driver",
    0x40: "temperature, by the hardware",
    0x80: "power brake of the power supply",
    0x100: "clocks of the display",
    0x200: "limit of the board",
    0x400: "limit for reliability",
}
THROTTLED = sum(_REASONS)
"""The bits that mean slower than possible, without 1 (idle) and 2 (clocks set by a user)."""


def name_reasons(mask: float) -> list[str]:
    """Return the reasons in a mask why a GPU was slower than it could be; none if it was not."""
    return [reason for bit, reason in _REASONS.items() if int(mask) & bit]


def throttled_percent(trace: Trace, chosen: Values) -> float | None:
    """Return for which share of the time (`chosen`: each row's weight) clocks were lowered, %; None: unknown."""
    shares = [weighted_mean(_lowered(mask), chosen) for mask in trace.of_gpus("throttle_reasons")]
    known = [100 * share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def throttle_reasons(trace: Trace, chosen: Values) -> str | None:
    """Return the reasons in words, the one that lasted longest first; None if there were none."""
    lasted: dict[str, float] = {}
    for mask in trace.of_gpus("throttle_reasons"):
        for value in np.unique(mask[np.isfinite(mask)]):
            for reason in name_reasons(float(value)):
                lasted[reason] = lasted.get(reason, 0.0) + float(chosen[mask == value].sum())
    return ", ".join(sorted(lasted, key=lambda reason: -lasted[reason])) or None


def _lowered(mask: Values) -> Values:
    """Return 1 where a clock was lowered, 0 where none was, not-a-number where that is unknown."""
    known = np.isfinite(mask)
    return np.where(known, np.where(known, mask, 0.0).astype(np.int64) & THROTTLED != 0, np.nan)
