"""Takes from a trial's hardware log the figures that the rules of the diagnosis look at."""

import re
from collections.abc import Mapping
from math import nan

import numpy as np

from mloptimizer.hardware.analysis.summary import TrainingGains, gains_of_training, split_time
from mloptimizer.hardware.analysis.throttling import throttled_percent
from mloptimizer.hardware.analysis.trace import Figures, Trace, highest, over_columns, weighted_mean

Evidence = Mapping[str, float]
"""Figures by name; not-a-number where the log does not tell, so that no rule can hold of it."""

_LEAST_SECONDS = 2.0

EVIDENCE_WORDS: Mapping[str, str] = {
    "data_wait_percent": "it waited for images in {:.0f} % of the training",
    "compile_percent": "building the model and its first step took {:.0f} % of the trial",
    "gpus": "it had {:.0f} GPUs",
    "gpu_utilization_percent": "its GPUs were busy in {:.0f} % of the training",
    "gpu_memory_utilization_percent": "GPU memory was read or written in {:.0f} % of the training",
    "memory_to_kernels_percent": "GPU memory was busy in {:.0f} % of the time in which kernels ran",
    "gpu_power_percent": "the GPUs drew {:.0f} % of their power limit",
    "gpu_memory_percent": "{:.0f} % of the GPU memory was in use at most",
    "gpu_spread_percent": "the busiest GPU was busy {:.0f} % more of the time than the idlest",
    "step_ms": "a step took {:.1f} ms",
    "throttled_percent": "the clocks were lowered in {:.0f} % of the training",
    "sm_clock_percent": "they ran at {:.0f} % of the highest clock",
    "temperature_c": "the chip reached {:.0f} °C",
    "slot_busy_percent": "its cores were {:.0f} % busy",
    "others_percent": "programs other than the trial took {:.0f} % of them",
    "idle_between_percent": "{:.0f} % of the slots' time passed between trials, or while their processes started",
}
"""How each figure is told; the unit stands in its name."""


def gather_evidence(trace: Trace) -> dict[str, float]:
    """Return the figures of `EVIDENCE_WORDS` that a trial's log tells; those of GPUs and cores are of its training.

    A trial that ended at once, as some that fail do, tells nothing.
    """
    if trace.duration_s < _LEAST_SECONDS:
        return {}
    chosen = _training_weights(trace)
    gains = gains_of_training(trace)
    found = {
        "data_wait_percent": gains.share("data_wait_s"),
        "compile_percent": _compile_percent(trace),
        "gpus": len(trace.gpus()),
        "step_ms": _step_ms(gains),
        **_of_gpus(trace, chosen),
        **_of_cores(trace, chosen),
    }
    return {name: float(value) if isinstance(value, (int, float)) else nan for name, value in found.items()}


def _training_weights(trace: Trace) -> Figures:
    """Return the weights of the rows in which the trial trained; of all rows, where the log does not tell that."""
    part = trace.part()
    return trace.weights if part is None else np.where([word == "training" for word in part], trace.weights, 0.0)


def _mean(values: Figures, chosen: Figures) -> float | None:
    return weighted_mean(np.where(chosen > 0, values, np.nan), chosen)


def _compile_percent(trace: Trace) -> float | None:
    spent = split_time(trace)
    if spent["build_s"] is None or spent["first_step_s"] is None or not trace.duration_s:
        return None
    return 100 * (spent["build_s"] + spent["first_step_s"]) / trace.duration_s


def _step_ms(gains: TrainingGains) -> float | None:
    steps = gains.per_second("step")
    return 1000 / steps if steps else None


def _of_gpus(trace: Trace, chosen: Figures) -> dict[str, float | None]:
    if not trace.gpus():
        return {}

    def percents(name: str, whole: str) -> list[Figures]:
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
    }  # fmt: skip


def _of_cores(trace: Trace, chosen: Figures) -> dict[str, float | None]:
    """Return how busy the slot's cores were, and which share of them other programs than the trial took.

    Nothing where other trials of the search were at work on them: they are no other programs.
    """
    if (highest(trace.column("trials_on_cores")) or 1) > 1:
        return {}
    cores = [trace.column(name) for name in trace.header if re.fullmatch(r"core\d+_percent", name)]
    busy = _mean(over_columns(cores), chosen) if cores else None
    mine = _mean(trace.column("process_cpu_percent"), chosen)
    if busy is None or mine is None:
        return {}
    return {"slot_busy_percent": busy, "others_percent": max(busy - mine / len(cores), 0.0)}
