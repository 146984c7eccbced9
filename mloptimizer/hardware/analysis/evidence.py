"""Derives from a trial's hardware log the metrics that the rules of the diagnosis check."""

import re
from collections.abc import Mapping
from math import nan

import numpy as np

from mloptimizer.hardware.analysis.summary import gains_of_training, split_time
from mloptimizer.hardware.analysis.throttling import throttled_percent
from mloptimizer.hardware.analysis.trace import Trace, Values, highest, over_columns, weighted_mean

Evidence = Mapping[str, float]
"""Metrics by name; not-a-number where the log has no values, so that no rule can hold."""

_LEAST_SECONDS = 2.0

EVIDENCE_TEXTS: Mapping[str, str] = {
    "data_wait_percent": "it spent {:.0f} % of the training waiting for images",
    "compile_percent": "building the model and its first step took {:.0f} % of the trial",
    "gpus": "it had {:.0f} GPUs",
    "gpu_utilization_percent": "its GPUs were busy {:.0f} % of the training time",
    "gpu_memory_utilization_percent": "GPU memory was read or written {:.0f} % of the training time",
    "memory_to_kernels_percent": "GPU memory was busy {:.0f} % of the time in which kernels ran",
    "gpu_power_percent": "the GPUs drew {:.0f} % of their power limit",
    "gpu_memory_percent": "at most {:.0f} % of the GPU memory was in use",
    "gpu_spread_percent": "the busiest GPU was busy {:.0f} % more of the time than the least busy one",
    "step_ms": "a step took {:.1f} ms",
    "throttled_percent": "the clocks were lowered {:.0f} % of the training time",
    "sm_clock_percent": "they ran at {:.0f} % of the highest clock",
    "temperature_c": "the chip reached {:.0f} °C",
    "slot_busy_percent": "its cores were {:.0f} % busy",
    "others_percent": "other programs took {:.0f} % of them",
    "idle_between_percent": "slots spent {:.0f} % of their time between trials or starting processes",
}
"""How each metric is reported; its name ends with its unit."""


def gather_evidence(trace: Trace) -> dict[str, float]:
    """Return the metrics of `EVIDENCE_TEXTS` that a trial's log provides; those of GPUs and cores cover its training.

    A trial that ended at once, as some failed ones do, provides none.
    """
    if trace.duration_s < _LEAST_SECONDS:
        return {}
    part = trace.part()  # without it, all rows count as training
    weights = trace.weights
    chosen = weights if part is None else np.where([word == "training" for word in part], weights, 0.0)
    gains, spent = gains_of_training(trace), split_time(trace)
    steps, compile_s = gains.per_second("step"), (spent["build_s"] or 0.0) + (spent["first_step_s"] or 0.0)
    found = {
        "data_wait_percent": gains.share("data_wait_s"),
        "compile_percent": None if spent["build_s"] is None else 100 * compile_s / trace.duration_s,
        "gpus": len(trace.gpus()),
        "step_ms": 1000 / steps if steps else None,
        **_of_gpus(trace, chosen),
        **_of_cores(trace, chosen),
    }
    return {name: nan if value is None else float(value) for name, value in found.items()}


def _mean(values: Values, chosen: Values) -> float | None:
    return weighted_mean(np.where(chosen > 0, values, np.nan), chosen)


def _of_gpus(trace: Trace, chosen: Values) -> dict[str, float | None]:
    if not trace.gpus():
        return {}

    def percents(name: str, whole: str) -> list[Values]:
        columns = zip(trace.of_gpus(name), trace.of_gpus(whole), strict=True)
        return [100 * part / np.where(total > 0, total, nan) for part, total in columns]

    def mean(name: str, whole: str = "") -> float | None:
        return _mean(over_columns(percents(name, whole) if whole else trace.of_gpus(name)), chosen)

    busy, memory = mean("utilization_percent"), mean("memory_utilization_percent")
    by_gpu = [_mean(column, chosen) for column in trace.of_gpus("utilization_percent")]
    known = [value for value in by_gpu if value is not None]
    return {
        "gpu_utilization_percent": busy,
        "gpu_memory_utilization_percent": memory,
        "memory_to_kernels_percent": 100 * memory / busy if memory is not None and busy else None,
        "gpu_power_percent": mean("power_w", "power_limit_w"),
        "gpu_memory_percent": highest(np.concatenate(percents("memory_used_mb", "memory_total_mb"))),
        "gpu_spread_percent": max(known) - min(known) if len(known) > 1 else None,
        "throttled_percent": throttled_percent(trace, chosen) if chosen.any() else None,
        "sm_clock_percent": mean("sm_clock_mhz", "sm_clock_max_mhz"),
        "temperature_c": highest(np.concatenate(trace.of_gpus("temperature_c"))),
    }


def _of_cores(trace: Trace, chosen: Values) -> dict[str, float | None]:
    """Return how busy the slot's cores were, and which share of them other programs took.

    Nothing if other trials of the search used them: those are not other programs.
    """
    if (highest(trace.column("trials_on_cores")) or 1) > 1:
        return {}
    cores = [trace.column(name) for name in trace.header if re.fullmatch(r"core\d+_percent", name)]
    busy = _mean(over_columns(cores), chosen) if cores else None
    mine = _mean(trace.column("process_cpu_percent"), chosen)
    if busy is None or mine is None:
        return {}
    return {"slot_busy_percent": busy, "others_percent": max(busy - mine / len(cores), 0.0)}
