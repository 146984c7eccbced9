"""Says in a few figures what the hardware did during a trial, from its log.

A figure that the log does not tell is None, never 0. Means are weighted by time; a continued log counts as a whole.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mloptimizer.hardware.analysis.energy import EnergyMeter
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.hardware.analysis.throttling import throttle_reasons, throttled_percent
from mloptimizer.hardware.analysis.trace import (
    Figures,
    Trace,
    highest,
    over_columns,
    weighted_mean,
    weighted_percentile,
)
from mloptimizer.hardware.columns import PARTS, Cell

IDLE_PERCENT = 5.0  # below it nothing is computed: a GPU's own housekeeping, a process that waits
IDLE_SECONDS = 5.0  # the shortest period that is told: the pauses between epochs are shorter and cost little

SUMMARY_FIGURES: Mapping[str, str] = {
    "duration_s": "time that its hardware log covers, all attempts together, s",
    "rows": "rows of the log",
    "attempts": "attempts that wrote them",
    "gpus": "GPUs of which the log tells anything",
    "trials_on_gpu": "mean number of trials that shared its GPUs, this one included",
    "gpu_utilization_percent": "mean over time and its GPUs, %",
    "gpu_utilization_p95_percent": "what the mean of its GPUs did not exceed in 95 % of the time, %",
    "gpu_utilization_peak_percent": "the highest of any of its GPUs, %",
    "gpu_memory_utilization_percent": "share of the time in which GPU memory was read or written, mean over GPUs, %",
    "gpu_memory_utilization_p95_percent": "what that did not exceed in 95 % of the time, %",
    "gpu_memory_utilization_peak_percent": "the highest of that of any of its GPUs, %",
    "gpu_memory_peak_mb": "most memory in use of one GPU, by the trial; by everybody where NVML lists no processes, MB",
    "gpu_power_w": "mean power of its GPUs together, W",
    "gpu_power_peak_w": "highest power of its GPUs together, W",
    "gpu_wh": "energy of its GPUs, its share where others used them too, Wh",
    "gpu_energy_source": "where gpu_wh is from: counter, power (integrated), or counter and power",
    "cpu_wh": "estimate: energy of the CPU packages (RAPL) x the trial's share of all processor time spent, Wh",
    "energy_wh": "gpu_wh and cpu_wh together, as far as they are known, Wh",
    "co2_g": "energy_wh x grid_g_per_kwh, g",
    "grid_g_per_kwh": "CO2 that a kWh of the grid was taken for: setting grid_co2, g",
    "throttled_percent": "share of the time in which its GPUs had lowered their clocks though they worked, %",
    "throttle_reasons": "why, the most frequent reason first",
    "process_cores": "mean number of cores that its processes kept busy",
    "machine_cores": "logical cores of the machine; of several, those of the largest",
    "cpu_percent": "mean share of all cores of the machine that was busy, %",
    "ram_peak_mb": "most resident memory of its processes, MB",
    "images": "images trained on, all attempts together",
    "images_per_second": "images trained on per second of training, after the first step",
    "images_per_joule": "images trained on per joule of energy_wh, which is that of the whole trial",
    "data_wait_percent": "share of the training, after the first step, in which it waited for images, %",
    "idle_s": f"time in periods of {IDLE_SECONDS:g} s or more in which its GPUs (without a GPU, its processes) were "
    f"below {IDLE_PERCENT:g} % busy, or it did nothing of the parts below, s",
    "idle_periods": "number of such periods",
    "longest_idle_s": "the longest of them, s",
    **{f"{part}_s": f"time spent in the part {part.replace('_', ' ')}, s" for part in PARTS},
    "other_s": "the rest of duration_s, s",
}
"""What each figure of `summarise` is, with its unit."""


def summarise(
    trace: Trace, grid_g_per_kwh: float = WORLD_G_PER_KWH, machine_cores: int | None = None
) -> dict[str, Cell]:
    """Return the figures of `SUMMARY_FIGURES` for a trial's log.

    Args:
        grid_g_per_kwh: what a kWh stands for, g of CO2.
        machine_cores: logical cores of the machine where the log does not tell them; None: as many as this one has.
    """
    cores = int(highest(trace.column("machine_cores")) or machine_cores or os.cpu_count() or 1)
    training = gains_of_training(trace)
    energy = _energy(trace, grid_g_per_kwh, cores)
    images = round(sum(training.totals["images"])) if training.totals["images"] else None
    watt_hours = energy["energy_wh"]
    found: dict[str, Cell] = {
        "duration_s": trace.duration_s,
        "rows": len(trace),
        "attempts": len(trace.attempts),
        "trials_on_gpu": weighted_mean(trace.column("trials_on_gpu"), trace.weights),
        **_gpus(trace),
        **energy,
        "throttled_percent": throttled_percent(trace, trace.weights),
        "throttle_reasons": throttle_reasons(trace, trace.weights),
        "process_cores": _divided(weighted_mean(trace.column("process_cpu_percent"), trace.weights), 100),
        "machine_cores": cores,
        "cpu_percent": weighted_mean(trace.column("cpu_percent"), trace.weights),
        "ram_peak_mb": highest(trace.column("process_rss_mb")),
        "images": images,
        "images_per_second": training.per_second("images"),
        "images_per_joule": images / (3600 * watt_hours) if images and isinstance(watt_hours, float) and watt_hours
        else None,
        "data_wait_percent": training.share("data_wait_s"),
        **_idle(trace),
        **split_time(trace),
    }  # fmt: skip
    return {name: rounded(found[name]) for name in SUMMARY_FIGURES}


def rounded(value: Cell) -> Cell:
    """Return a figure with three decimals, or three digits where it is below 1; None where it is not finite."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):  # of a damaged log, and JSON cannot keep it
        return None
    return round(value, 3) if abs(value) >= 1 else float(f"{value:.3g}")


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _gpus(trace: Trace) -> dict[str, Cell]:
    found: dict[str, Cell] = {"gpus": len(trace.gpus())}
    for name in ("utilization_percent", "memory_utilization_percent"):
        columns = trace.of_gpus(name)
        mean, kind = over_columns(columns) if columns else np.array([]), name.removesuffix("_percent")
        found[f"gpu_{name}"] = weighted_mean(mean, trace.weights) if columns else None
        found[f"gpu_{kind}_p95_percent"] = weighted_percentile(mean, trace.weights, 95) if columns else None
        found[f"gpu_{kind}_peak_percent"] = max((h for c in columns if (h := highest(c)) is not None), default=None)
    power = trace.of_gpus("power_w")
    together = over_columns(power) * len(power) if power else np.array([])
    found["gpu_power_w"] = weighted_mean(together, trace.weights) if power else None
    found["gpu_power_peak_w"] = highest(together)
    found["gpu_memory_peak_mb"] = max(
        (peak for gpu in trace.gpus() if (peak := _memory_peak(trace, gpu)) is not None), default=None
    )
    return found


def _memory_peak(trace: Trace, gpu: str) -> float | None:
    own = highest(trace.column(f"{gpu}_process_memory_mb"))
    return highest(trace.column(f"{gpu}_memory_used_mb")) if own is None else own


def meter_energy(trace: Trace, cores: int) -> EnergyMeter:
    """Return the meter after all rows of the trace."""
    names = ["seconds", "trials_on_gpu", "cpu_energy_j", "process_cpu_percent", "cpu_percent", "machine_cores"]
    names += [f"{gpu}_{kind}" for gpu in trace.gpus() for kind in ("power_w", "energy_j")]
    columns = [[None if np.isnan(value) else value for value in trace.column(name).tolist()] for name in names]
    meter = EnergyMeter(cores)
    for cells in zip(*columns, strict=True):
        meter.add(dict(zip(names, cells, strict=True)))
    return meter


def _energy(trace: Trace, grid_g_per_kwh: float, cores: int) -> dict[str, Cell]:
    meter = meter_energy(trace, cores)
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
    """What cumulative columns gained: over whole attempts, and after their first training steps, which are traced and
    compiled."""

    totals: Mapping[str, list[float]]  # by column, of each attempt that tells it
    gains: Mapping[str, float]  # by column, of all attempts

    def per_second(self, name: str) -> float | None:
        """Return the gain per second of training; None where none was seen."""
        seconds = self.gains.get("training_s", 0.0)
        return self.gains[name] / seconds if seconds > 0 and name in self.gains else None

    def share(self, name: str) -> float | None:
        """Return the gain in % of the training's time, at most 100; None where none was seen."""
        share = self.per_second(name)
        return None if share is None else min(100 * share, 100.0)


def gains_of_training(trace: Trace) -> TrainingGains:
    """Return what the columns images, step, data_wait_s and training_s gained."""
    names = ("images", "step", "data_wait_s", "training_s")
    totals: dict[str, list[float]] = {name: [] for name in names}
    gains: dict[str, float] = {}
    for rows in trace.attempts:
        columns = {name: trace.column(name)[rows] for name in names}
        for name, values in columns.items():
            if (total := highest(values)) is not None:
                totals[name].append(total)
        stepped = np.flatnonzero(columns["images"] > 0)  # the first step is behind it
        if len(stepped):
            for name, values in columns.items():
                gain = values[stepped[-1]] - values[stepped[0]]
                gains[name] = gains.get(name, 0.0) + (float(gain) if np.isfinite(gain) else 0.0)
    return TrainingGains(totals, gains)


def _idle(trace: Trace) -> dict[str, Cell]:
    utilization, part = trace.of_gpus("utilization_percent"), trace.part()
    busy = over_columns(utilization) if utilization else trace.column("process_cpu_percent")
    idle = busy < IDLE_PERCENT  # unknown is not idle
    if part is not None:
        for rows in trace.attempts:
            if any(part[rows]):  # an attempt of an earlier version does not tell what it did
                idle[rows] |= np.array([not word for word in part[rows]])
    elif not np.isfinite(busy).any():
        return dict.fromkeys(("idle_s", "idle_periods", "longest_idle_s"))
    lengths = [length for rows in trace.attempts for length in _runs(idle[rows], trace.spans[rows])]
    periods = [length for length in lengths if length >= IDLE_SECONDS]
    return {"idle_s": float(sum(periods)), "idle_periods": len(periods), "longest_idle_s": max(periods, default=0.0)}


def _runs(chosen: np.ndarray, spans: Figures) -> list[float]:
    """Return how long each unbroken run of chosen rows takes, s."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], chosen.astype(int), [0]))))
    return [float(spans[start:end].sum()) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def split_time(trace: Trace) -> dict[str, float | None]:
    """Return the seconds of every part, as NAME_s, and of the rest, as other_s; None where the log does not tell."""
    if not any(trace.knows(f"{part}_s") for part in PARTS):
        return dict.fromkeys([*(f"{part}_s" for part in PARTS), "other_s"])
    spent = {f"{part}_s": sum(highest(trace.column(f"{part}_s")[rows]) or 0.0 for rows in trace.attempts)
             for part in PARTS}  # fmt: skip
    return {**spent, "other_s": max(trace.duration_s - sum(spent.values()), 0.0)}


def summarise_columns(trace: Trace) -> dict[str, tuple[float | None, float | None]]:
    """Return mean over time and peak of every column that is no time and no sum."""
    names = [name for name in trace.figures if not name.endswith(_SUMS)]
    return {name: (weighted_mean(trace.column(name), trace.weights), highest(trace.column(name))) for name in names}


_SUMS = ("seconds", "energy_j", "epoch", "step", "images", "data_wait_s", *(f"{part}_s" for part in PARTS))
