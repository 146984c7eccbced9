"""Says for how long, and why, GPUs ran at lower clocks than they could, from a hardware log."""

import numpy as np

from mloptimizer.hardware.analysis.trace import Figures, Trace, weighted_mean
from mloptimizer.hardware.read.throttling import THROTTLED, throttle_words


def throttled_percent(trace: Trace, chosen: Figures) -> float | None:
    """Return in which share of the time its GPUs' clocks were lowered, %, mean over GPUs; None where none tells.

    Args:
        chosen: the weight of every row.
    """
    shares = [weighted_mean(_lowered(mask), chosen) for mask in trace.of_gpus("throttle_reasons")]
    known = [100 * share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def throttle_reasons(trace: Trace, chosen: Figures) -> str | None:
    """Return the reasons in words, the one that lasted longest first; None where there were none."""
    lasted: dict[str, float] = {}
    for mask in trace.of_gpus("throttle_reasons"):
        for value in np.unique(mask[np.isfinite(mask)]):
            for reason in throttle_words(float(value)):
                lasted[reason] = lasted.get(reason, 0.0) + float(chosen[mask == value].sum())
    return ", ".join(sorted(lasted, key=lambda reason: -lasted[reason])) or None


def _lowered(mask: Figures) -> Figures:
    """Return 1 where a clock was lowered, 0 where none was, not-a-number where that is unknown."""
    known = np.isfinite(mask)
    bits = np.where(known, mask, 0.0).astype(np.int64) & THROTTLED
    return np.where(known, (bits != 0).astype(float), np.nan)
