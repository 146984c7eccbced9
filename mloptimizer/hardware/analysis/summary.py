"""Summarises what the hardware did during a trial, from its log.

A metric without values in the log is None, never 0. Means are weighted by time; a continued log counts as a whole.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mloptimizer.hardware.analysis.energy import EnergyMeter
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.hardware.analysis.throttling import throttle_reasons, throttled_percent
from mloptimizer.hardware.analysis.trace import Trace, Values, highest, over_columns, weighted_mean, weighted_percentile
from mloptimizer.hardware.columns import PARTS, Cell

IDLE_PERCENT = 5.0  # below it nothing is computed: a GPU's own housekeeping, a waiting process
IDLE_SECONDS = 5.0  # the shortest period that counts: the pauses between epochs are shorter and cost little

SUMMARY_METRICS: Mapping[str, str] = {
    "duration_s": "time covered by its hardware log, all attempts together, s",
    "rows": "rows of the log",
    "attempts": "attempts that wrote them",
    "gpus": "GPUs with any values in the log",
    "trials_on_gpu": "mean number of trials sharing its GPUs, including this one",
    "gpu_utilization_percent": "mean over time and its GPUs, %",
    "gpu_utilization_p95_percent": "what the mean of its GPUs did not exceed in 95 % of the time, %",
    "gpu_utilization_peak_percent": "the highest of any of its GPUs, %",
    "gpu_memory_utilization_percent": "share of the time in which GPU memory was read or written, mean over GPUs, %",
    "gpu_memory_utilization_p95_percent": "what that did not exceed in 95 % of the time, %",
    "gpu_memory_utilization_peak_percent": "the highest of any of its GPUs, %",
    "gpu_memory_peak_mb": "most memory in use on one GPU, by the trial; by everyone if NVML lists no processes, MB",
    "gpu_power_w": "mean power of its GPUs together, W",
    "gpu_power_peak_w": "highest power of its GPUs together, W",
    "gpu_wh": "energy of its GPUs, the trial's share if others used them too, Wh",
    "gpu_energy_source": "source of gpu_wh: counter, power (integrated), or counter and power",
    "cpu_wh": "estimate: energy of the CPU packages (RAPL) x the trial's share of all processor time used, Wh",
    "energy_wh": "gpu_wh and cpu_wh together, as far as they are known, Wh",
    "co2_g": "energy_wh x grid_g_per_kwh, g",
    "grid_g_per_kwh": "assumed CO2 per kWh: setting grid_co2, g",
    "throttled_percent": "share of the time in which its GPUs lowered their clocks while working, %",
    "throttle_reasons": "why, the most frequent reason first",
    "process_cores": "mean number of cores that its processes kept busy",
    "machine_cores": "logical cores of the machine; of several machines, the most",
    "cpu_percent": "mean busy share of all cores of the machine, %",
    "ram_peak_mb": "most resident memory of its processes, MB",
    "images": "images that it trained with, all attempts together",
    "images_per_second": "training images per second of training, after the first step",
    "images_per_joule": "training images per joule of energy_wh, which covers the whole trial",
    "data_wait_percent": "share of the training, after the first step, spent waiting for images, %",
    "idle_s": f"time in periods of {IDLE_SECONDS:g} s or more in which its GPUs (without a GPU, its processes) were "
    f"below {IDLE_PERCENT:g} % busy, or it was in none of the parts below, s",
    "idle_periods": "number of such periods",
    "longest_idle_s": "the longest of them, s",
    **{f"{part}_s": f"time spent in {part.replace('_', ' ')}, s" for part in PARTS},
    "other_s": "the rest of duration_s, s",
}
"""The meaning of each metric of `summarise`, with its unit."""


def summarise(
    trace: Trace, grid_g_per_kwh: float = WORLD_G_PER_KWH, machine_cores: int | None = None
) -> dict[str, Cell]:
    """Return the metrics of `SUMMARY_METRICS` for a trial's log.

    Args:
        grid_g_per_kwh: what a kWh stands for, g of CO2.
        machine_cores: logical cores of the machine, for logs without them; None: as many as this one has.
    """
    cores = int(highest(trace.column("machine_cores")) or machine_cores or os.cpu_count() or 1)
    training = gains_of_training(trace)
    meter = meter_energy(trace, cores)
    found: dict[str, Cell] = {
        "duration_s": trace.duration_s,
        "rows": len(trace),
        "attempts": len(trace.attempts),
        "trials_on_gpu": weighted_mean(trace.column("trials_on_gpu"), trace.weights),
        **_gpus(trace),
        **_energy(meter, grid_g_per_kwh),
        "throttled_percent": throttled_percent(trace, trace.weights),
        "throttle_reasons": throttle_reasons(trace, trace.weights),
        "process_cores": _divided(weighted_mean(trace.column("process_cpu_percent"), trace.weights), 100),
        "machine_cores": cores,
        "cpu_percent": weighted_mean(trace.column("cpu_percent"), trace.weights),
        "ram_peak_mb": highest(trace.column("process_rss_mb")),
        "images": training.images,
        "images_per_second": training.per_second("images"),
        "images_per_joule": training.images / meter.joules if training.images and meter.joules else None,
        "data_wait_percent": training.share("data_wait_s"),
        **_idle(trace),
        **split_time(trace),
    }
    return {name: _rounded(found[name]) for name in SUMMARY_METRICS}


def _rounded(value: Cell) -> Cell:
    """Return a number with three decimals, or three digits if it is below 1; None if it is not finite."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):  # from a damaged log, and JSON cannot store it
        return None
    return round(value, 3) if abs(value) >= 1 else float(f"{value:.3g}")


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _gpus(trace: Trace) -> dict[str, Cell]:
    def columns(name: str) -> list[Values]:
        return trace.of_gpus(name) or [trace.column("")]  # without a GPU, all values are unknown

    found: dict[str, Cell] = {"gpus": len(trace.gpus())}
    for kind in ("utilization", "memory_utilization"):
        by_gpu = columns(f"{kind}_percent")
        mean = over_columns(by_gpu)
        found[f"gpu_{kind}_percent"] = weighted_mean(mean, trace.weights)
        found[f"gpu_{kind}_p95_percent"] = weighted_percentile(mean, trace.weights, 95)
        found[f"gpu_{kind}_peak_percent"] = highest(np.concatenate(by_gpu))
    power = over_columns(columns("power_w")) * len(columns("power_w"))
    found["gpu_power_w"], found["gpu_power_peak_w"] = weighted_mean(power, trace.weights), highest(power)
    used = zip(columns("process_memory_mb"), columns("memory_used_mb"), strict=True)
    found["gpu_memory_peak_mb"] = highest(
        np.concatenate([own if np.isfinite(own).any() else everyone for own, everyone in used])
    )
    return found


def meter_energy(trace: Trace, cores: int) -> EnergyMeter:
    """Return the meter after all rows of the trace."""
    names = ["seconds", "trials_on_gpu", "cpu_energy_j", "process_cpu_percent", "cpu_percent", "machine_cores"]
    names += [f"{gpu}_{kind}" for gpu in trace.gpus() for kind in ("power_w", "energy_j")]
    columns = [[None if np.isnan(value) else value for value in trace.column(name).tolist()] for name in names]
    meter = EnergyMeter(cores)
    for cells in zip(*columns, strict=True):
        meter.add(dict(zip(names, cells, strict=True)))
    return meter


def _energy(meter: EnergyMeter, grid_g_per_kwh: float) -> dict[str, Cell]:
    gpu, cpu = _divided(meter.gpu_joules, 3600), _divided(meter.cpu_joules, 3600)
    both = None if gpu is None and cpu is None else (gpu or 0.0) + (cpu or 0.0)
    return {
        "gpu_wh": gpu,
        "gpu_energy_source": meter.gpu_source,
        "cpu_wh": cpu,
        "energy_wh": both,
        "co2_g": None if both is None else both * grid_g_per_kwh / 1000,
        "grid_g_per_kwh": float(grid_g_per_kwh),
    }


@dataclass(frozen=True)
class TrainingGains:
    """What cumulative columns gained after each attempt's first training steps, which are traced and compiled."""

    images: int | None  # of whole attempts, the first steps included
    gains: Mapping[str, float]  # by column, of all attempts

    def per_second(self, name: str) -> float | None:
        """Return the gain per second of training; None without training."""
        seconds = self.gains.get("training_s", 0.0)
        return self.gains[name] / seconds if seconds > 0 and name in self.gains else None

    def share(self, name: str) -> float | None:
        """Return the gain in % of the training's time, at most 100; None without training."""
        share = self.per_second(name)
        return None if share is None else min(100 * share, 100.0)


def gains_of_training(trace: Trace) -> TrainingGains:
    """Return what the columns images, step, data_wait_s and training_s gained."""
    columns = {name: trace.column(name) for name in ("images", "step", "data_wait_s", "training_s")}
    gains: dict[str, float] = {}
    for rows in trace.attempts:
        stepped = rows.start + np.flatnonzero(columns["images"][rows] > 0)  # rows after the first step
        for name, values in columns.items() if len(stepped) else ():
            gain = values[stepped[-1]] - values[stepped[0]]
            gains[name] = gains.get(name, 0.0) + (float(gain) if np.isfinite(gain) else 0.0)
    totals = [total for rows in trace.attempts if (total := highest(columns["images"][rows])) is not None]
    return TrainingGains(round(sum(totals)) if totals else None, gains)


def _idle(trace: Trace) -> dict[str, Cell]:
    utilization, part = trace.of_gpus("utilization_percent"), trace.part()
    busy = over_columns(utilization) if utilization else trace.column("process_cpu_percent")
    idle = busy < IDLE_PERCENT  # unknown is not idle
    if part is not None:
        for rows in trace.attempts:
            if any(part[rows]):  # an attempt of an earlier version does not say what it did
                idle[rows] |= np.array([not word for word in part[rows]])
    elif not np.isfinite(busy).any():
        return dict.fromkeys(("idle_s", "idle_periods", "longest_idle_s"))
    lengths = [length for rows in trace.attempts for length in _runs(idle[rows], trace.spans[rows])]
    periods = [length for length in lengths if length >= IDLE_SECONDS]
    return {"idle_s": float(sum(periods)), "idle_periods": len(periods), "longest_idle_s": max(periods, default=0.0)}


def _runs(chosen: np.ndarray, spans: Values) -> list[float]:
    """Return how long each unbroken run of chosen rows takes, s."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], chosen.astype(int), [0]))))
    return [float(spans[start:end].sum()) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def split_time(trace: Trace) -> dict[str, float | None]:
    """Return the seconds of every part, as NAME_s, and of the rest, as other_s; None if the log has no parts."""
    names = [f"{part}_s" for part in PARTS]
    if not any(trace.has_values(name) for name in names):
        return dict.fromkeys([*names, "other_s"])
    spent = {name: sum(highest(trace.column(name)[rows]) or 0.0 for rows in trace.attempts) for name in names}
    return {**spent, "other_s": max(trace.duration_s - sum(spent.values()), 0.0)}


def summarise_columns(trace: Trace) -> dict[str, tuple[float | None, float | None]]:
    """Return the mean over time and the peak of every column that is neither a time nor a sum."""
    sums = ("seconds", "energy_j", "epoch", "step", "images", "data_wait_s", *(f"{part}_s" for part in PARTS))
    names = [name for name in trace.values if not name.endswith(sums)]
    return {name: (weighted_mean(trace.column(name), trace.weights), highest(trace.column(name))) for name in names}
