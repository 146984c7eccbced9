"""Shows measurements: the tables of `mloptimizer bench` and `mloptimizer tune`, the bench's CSV and its chart.

A value that could not be measured is a dash, and a row without values says why.
"""

import csv
import io

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.reports.formatting import MISSING, fixed
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.tuning.bench import BenchResult
from mloptimizer.tuning.measurement import Measurement
from mloptimizer.tuning.plans import TuningPlan

_DECIMALS = {  # of the fields of a measurement that the CSV has as columns
    "images_per_second": 1,
    "seconds_per_epoch": 3,
    "startup_seconds": 2,
    "seconds_to_target": 2,
    "val_accuracy": 4,
    "peak_memory_mb": 0,
    "gpu_memory_mb": 0,
    "cpu_percent": 0,
    "gpu_percent": 0,
    "data_wait_percent": 1,
}
_SLOWER, _FASTER, _REFERENCE = "#c0504d", "#3a7d44", "#4f6d8f"
_BACKGROUND, _INK = "#ffffff", "#222222"
_LEGEND = (
    "start: seconds beyond the epochs' steady pace, for data, model, tracing and compiling; CPU %: of one core; peak: "
    "resident memory; data wait: share of an epoch in which the device waited for images."
)


def bench_table(comparison: BenchResult, target_accuracy: float) -> RenderableType:
    """Return the comparison as a table, and below it a legend, the noise, and why measurements are missing."""
    gpus = any(row.gpu_percent is not None for row in comparison.rows)
    table = FittingTable("variant", lined=False)
    titles = ["s per\nepoch", "images\nper s", "×\nbase", f"s to\n{target_accuracy:g}", "start\ns", "best\nacc."]
    titles += ["peak\nMB", "GPU\nMB", "CPU\n%", "GPU\n%"] if gpus else ["peak\nMB", "CPU\n%"]
    table.add_numbers(*titles, "data\nwait %")
    for row in comparison.rows:
        if not row.failure:
            table.add_row(row.name, *_cells(row, comparison.ratio(row), gpus))
    notes = [Text(_LEGEND, style="dim")]
    if comparison.noise_percent is not None:
        apart = f"the two measurements of the baseline are {comparison.noise_percent:.1f} % apart"
        notes.append(Text(f"Noise: {apart}; smaller differences mean nothing."))
    missing = [Text(f"{row.name}: {row.failure}", style="dim") for row in comparison.rows if row.failure]
    return Group(table, *notes, *missing)


def _cells(row: Measurement, ratio: float | None, gpus: bool) -> list[str]:
    cells = [fixed(row.seconds_per_epoch, 2), fixed(row.images_per_second, 0), fixed(ratio, 2)]
    cells += [fixed(row.seconds_to_target, 1), fixed(row.startup_seconds, 1), fixed(row.val_accuracy, 3)]
    with_gpus = [row.peak_memory_mb, row.gpu_memory_mb, row.cpu_percent, row.gpu_percent]
    machine = with_gpus if gpus else [row.peak_memory_mb, row.cpu_percent]
    return [*cells, *(fixed(value, 0) for value in machine), fixed(row.data_wait_percent, 1)]


def describe_measurement(row: Measurement, ratio: float | None) -> str:
    """Return one line about a measurement that has just ended."""
    if row.failure:
        return f"{row.name}: {row.failure}"
    times = f", {ratio:.2f} × the baseline" if ratio is not None else ""
    return f"{row.name}: {fixed(row.images_per_second, 0)} images/s{times}, {fixed(row.peak_memory_mb, 0)} MB"


def bench_csv(comparison: BenchResult) -> str:
    """Return the comparison as CSV, a row per variant; what could not be measured is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "settings", "ratio_to_baseline", *_DECIMALS, "choices", "failure"])
    for row in comparison.rows:
        changes = " ".join(f"{name}={value}" for name, value in row.changes.items())
        choices = "; ".join(f"{topic}: {choice}" for topic, choice in row.choices.items())
        values = [_rounded(getattr(row, name), decimals) for name, decimals in _DECIMALS.items()]
        writer.writerow([row.name, changes, _rounded(comparison.ratio(row), 4), *values, choices, row.failure])
    return text.getvalue()


def _rounded(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def bench_chart(comparison: BenchResult, title: str) -> bytes:
    """Return a PNG: a horizontal bar per variant for its ratio to the baseline, and a grey band for the noise."""
    from matplotlib.figure import Figure  # without pyplot it draws with Agg, which needs no display

    rows = [(row, ratio) for row in comparison.rows if (ratio := comparison.ratio(row)) is not None]
    figure = Figure(figsize=(9, max(3.0, 1.4 + 0.36 * len(rows))), dpi=150, facecolor=_BACKGROUND, layout="constrained")
    axes = figure.add_subplot(facecolor=_BACKGROUND)
    noise = (comparison.noise_percent or 0.0) / 100
    axes.axvspan(1 - noise, 1 + noise, color="#dddddd", zorder=0)
    axes.axvline(1, color=_INK, linewidth=1, zorder=1)
    colors = [_color(row, ratio, noise) for row, ratio in rows]
    axes.barh([row.name for row, _ in rows], [ratio for _, ratio in rows], color=colors, height=0.7, zorder=2)
    beside = axes.get_yaxis_transform()  # x as a share of the width, y as the number of the row
    for number, (row, ratio) in enumerate(rows):
        label = f"{ratio:.2f} ×  {row.images_per_second:>8,.0f} images/s"
        axes.text(1.01, number, label, transform=beside, va="center", color=_INK, fontsize=9, family="monospace")
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, 1.05 * max((ratio for _, ratio in rows), default=1.0))
    axes.set_xlabel("images per second over the baseline's; grey: the noise", color=_INK)
    axes.set_title(title, color=_INK, loc="left", fontsize=11)
    axes.tick_params(colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _color(row: Measurement, ratio: float, noise: float) -> str:
    if not row.changes or abs(ratio - 1) <= noise:
        return _REFERENCE
    return _FASTER if ratio > 1 else _SLOWER


def tuning_table(plan: TuningPlan) -> RenderableType:
    """Return what tuning measured, the plan's values, and their speed-up."""
    decimals = {"images_per_second": 0, "startup_seconds": 1, "peak_memory_mb": 0, "gpu_memory_mb": 0}
    titles = ["images\nper s", "start\ns", "peak\nMB", "GPU\nMB"]
    shown = len(titles) if any(row.get("gpu_memory_mb") is not None for row in plan.rows) else len(titles) - 1
    table = FittingTable("variant", lined=False)
    table.add_numbers(*titles[:shown])
    table.add_words("taken?")
    for row in plan.rows:
        cells = [fixed(row.get(name), places) for name, places in decimals.items()]
        finding = row.get("finding") or row.get("verdict") or MISSING  # verdict: written by version 0.1
        style = "bold green" if finding == "taken" else ""
        table.add_row(row["name"], *cells[:shown], Text(finding, style=style))
    values = ", ".join(f"{name} = {value}" for name, value in plan.decisions.items()) or "everything is set already"
    gain = f"{plan.speed_up:.2f} × the images per second of the start, both measured again in turn"
    result = gain if plan.speed_up > 1 else "nothing was at least 3 % faster than the start"
    counted = f"(over trials of {plan.images:,} images, compiling included)."
    return Group(table, Text(f"Plan: {values}\n{result} {counted}"))
