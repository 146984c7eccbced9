"""Shows a comparison of trainings: as a table that fits a terminal of 80 columns, as CSV and as a chart.

A figure that is not known is a dash, in the CSV an empty cell.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.core.words import counted
from mloptimizer.hardware.read.machine_facts import describe_machine
from mloptimizer.reports.formatting import MISSING, fixed, short
from mloptimizer.reports.model.comparison import ComparedRow, Comparison, Pairs
from mloptimizer.reports.model.trainings import COMPARED
from mloptimizer.reports.terminal.fitting_table import FittingTable

_LEGEND = (
    "images/s: of training alone; s/epoch: with validation (medians over the trainings, first epochs left out). W, Wh: "
    "means over whole trainings; Wh/1k: W over images/s, for 1,000 images. × first: images/s over the first row's, of "
    "the same models alone; scaling: images/s over n times that of one GPU of the same name, of the same models under "
    "the same precision and XLA; in brackets: of how many models. cost/1M: of a million images. start: "
    "before the epochs are at their pace; noise: how far two repetitions are apart."
)
_INK, _BACKGROUND, _BAR = "#222222", "#ffffff", "#4f6d8f"
_MACHINE_FACTS = ("host", "cpu", "cores", "ram_mb", "python", "tensorflow", "keras", "cuda")

Columns = Mapping[str, tuple[str, Callable[[ComparedRow], str]]]
"""By name: title and cell."""

_FIGURES: Mapping[str, Callable[[ComparedRow], Any]] = {  # of the CSV
    "images_per_second": lambda row: row.images_per_second,
    "seconds_per_epoch": lambda row: row.seconds_per_epoch,
    "speed_ratio_to_first_row": lambda row: row.against_first.ratio,
    "speed_ratio_models": lambda row: row.against_first.count,
    "power_w": lambda row: row.power_w,
    "wh_per_trial": lambda row: row.wh_per_trial,
    "wh_per_1000_images": lambda row: row.wh_per_1000_images,
    "startup_s": lambda row: row.startup_s,
    "ram_peak_mb": lambda row: row.ram_mb,
    "gpu_utilization_percent": lambda row: row.gpu_percent,
    "gpu_memory_peak_mb": lambda row: row.gpu_memory_mb,
    "noise_percent": lambda row: row.noise_percent,
    "scaling_efficiency": lambda row: row.scaling.ratio,
    "scaling_models": lambda row: row.scaling.count,
    "price_per_hour": lambda row: row.price_per_hour,
    "price_unit": lambda row: _price_unit(row) if row.price_per_hour is not None else None,
    "cost_per_trial": lambda row: row.cost_per_trial,
    "cost_per_million_images": lambda row: row.cost_per_million_images,
}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Return the rows, then the machines and the settings that differ, what the columns mean, and what is missing."""
    if not comparison.rows:
        return Group(Text("There is nothing to compare yet."), *map(Text, comparison.notes))
    figures, missing = _figures_table(comparison.rows, _COLUMNS, "train-\nings")
    more, missing_more = _figures_table(comparison.rows, _MORE_COLUMNS)
    parts: list[RenderableType] = [figures, Text(), _places_table(comparison)]
    if len(more.columns) > 1:
        parts += [Text(), more]
    if settings := comparison.differing_settings():
        parts += [Text(), _settings_table(comparison, settings)]
    parts += [Text(), Text(_LEGEND, style="dim")]
    if unknown := [name for name in (*missing, *missing_more) if name not in _OPTIONAL]:
        parts.append(Text(f"Not known of any row: {', '.join(unknown)}.", style="dim"))
    if any(row.price_per_hour is not None for row in comparison.rows):
        parts.append(Text(_price_line(comparison)))
    return Group(*parts, *map(Text, comparison.notes))


def _figures_table(rows: Sequence[ComparedRow], columns: Columns, *before: str) -> tuple[FittingTable, list[str]]:
    """Return a table of the columns that any row tells, and the names of the others."""
    table = FittingTable(lined=False)
    table.add_numbers("", *before)
    shown = {name: cell for name, (_, cell) in columns.items() if any(cell(row) != MISSING for row in rows)}
    table.add_numbers(*(columns[name][0] for name in shown))
    for number, row in enumerate(rows, start=1):
        counts = [str(row.trainings)] if before else []
        table.add_row(str(number), *counts, *(cell(row) for cell in shown.values()))
    return table, [name for name in columns if name not in shown]


def _with_count(pairs: Pairs, decimals: int, factor: float = 1.0, unit: str = "") -> str:
    if pairs.ratio is None:
        return MISSING
    return f"{pairs.ratio * factor:.{decimals}f}{unit} ({pairs.count})"


_COLUMNS: Columns = {
    "images/s": ("images\n/s", lambda row: fixed(row.images_per_second, 0)),
    "s/epoch": ("s/\nepoch", lambda row: fixed(row.seconds_per_epoch, 2)),
    "× first": ("× first", lambda row: _with_count(row.against_first, 2)),
    "scaling": ("scaling", lambda row: _with_count(row.scaling, 0, 100, " %")),
    "W": ("W", lambda row: fixed(row.power_w, 0)),
    "Wh/trial": ("Wh/\ntrial", lambda row: short(row.wh_per_trial, 3)),
    "Wh/1k": ("Wh/\n1k", lambda row: short(row.wh_per_1000_images, 3)),
    "cost/trial": ("cost/\ntrial", lambda row: short(row.cost_per_trial, 3)),
    "cost/1M": ("cost/\n1M", lambda row: short(row.cost_per_million_images, 3)),
}
_MORE_COLUMNS: Columns = {
    "start s": ("start s", lambda row: fixed(row.startup_s, 1)),
    "RAM MB": ("RAM MB", lambda row: fixed(row.ram_mb, 0)),
    "GPU %": ("GPU %", lambda row: fixed(row.gpu_percent, 0)),
    "GPU MB": ("GPU MB", lambda row: fixed(row.gpu_memory_mb, 0)),
    "noise %": ("noise %", lambda row: fixed(row.noise_percent, 1)),
}
_OPTIONAL = ("cost/trial", "cost/1M", "noise %")  # only with a price, only of benchmarks


def _places_table(comparison: Comparison) -> FittingTable:
    table = FittingTable("", "study or file", "host", "machine", "a training has", lined=False)
    for number, row in enumerate(comparison.rows, start=1):
        host = _plain(row.machine.get("host")) if row.machine else MISSING
        machine = _plain(describe_machine(row.machine)) if row.machine else MISSING
        table.add_row(str(number), Text(row.source), Text(host), Text(machine), describe_devices(row))
    return table


def describe_devices(row: ComparedRow) -> str:
    """Return what each training of the row had, such as 2 GPUs."""
    if row.gpus:
        return counted(row.gpus, "GPU")
    if row.gpus is None:
        return MISSING
    return counted(row.cores or "?", "core")


def _settings_table(comparison: Comparison, settings: list[str]) -> FittingTable:
    """Return a row per setting and a column per row of the comparison: settings are few, and their names long."""
    table = FittingTable("setting", *(str(number) for number in range(1, len(comparison.rows) + 1)), lined=False)
    for name in settings:
        table.add_row(name, *(Text(_plain(row.settings.get(name)) or MISSING) for row in comparison.rows))
    return table


def _plain(value: object) -> str:
    """Return text of a file that may come from anywhere without what a terminal would obey."""
    return "".join(sign for sign in str(value or "") if sign.isprintable())


def _price_unit(row: ComparedRow) -> str:
    return "GPU-hour" if row.gpus else "machine-hour"


def _price_line(comparison: Comparison) -> str:
    found = dict.fromkeys(
        f"{row.source}: {row.price_per_hour:g} per {_price_unit(row)}"
        for row in comparison.rows
        if row.price_per_hour is not None
    )
    return (
        f"Prices: {'; '.join(found)}. A training pays for its GPUs, of which others may have a share; without a GPU, "
        "for its share of the machine's cores."
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return the comparison as CSV: a row for each of its rows, with every figure, the machine and all settings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name.replace(" ", "_") for name in COMPARED]
    writer.writerow(["source", *_MACHINE_FACTS, "gpu", "gpu_driver", "gpus", "trainings", *_FIGURES, *names])
    for row in comparison.rows:
        facts = [_plain(row.machine.get(name)) for name in _MACHINE_FACTS]
        listed = row.machine.get("gpus")
        gpus = [gpu for gpu in (listed if isinstance(listed, list) else ()) if isinstance(gpu, Mapping)]
        names_of_gpus = [" + ".join(_plain(gpu.get(key)) for gpu in gpus) for key in ("name", "driver")]
        figures = [_cell(figure(row)) for figure in _FIGURES.values()]
        settings = [_plain(row.settings.get(name)) for name in COMPARED]
        devices = "" if row.gpus is None else row.gpus
        writer.writerow([row.source, *facts, *names_of_gpus, devices, row.trainings, *figures, *settings])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def comparison_chart(comparison: Comparison) -> bytes:
    """Return a PNG: a bar per row for the images per second, and beside it, where it is known, Wh for 1,000 images."""
    from matplotlib.figure import Figure  # without pyplot it draws with Agg: no display is needed

    rows = comparison.rows
    panels = list(_panels(rows))
    size = (5 + 4.5 * len(panels), max(2.5, 1.3 + 0.55 * len(rows)))
    figure = Figure(figsize=size, dpi=150, facecolor=_BACKGROUND, layout="constrained")
    labels = [f"{number}  {_label(row)}" for number, row in enumerate(rows, start=1)]
    for index, (title, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index, facecolor=_BACKGROUND)
        axes.barh(range(len(rows)), [value or 0.0 for value in values], color=_BAR, height=0.6)
        highest = max((value for value in values if value), default=1.0)
        for number, value in enumerate(values):
            axes.text((value or 0.0) + 0.02 * highest, number, short(value, 3), va="center", color=_INK, fontsize=9)
        axes.set_yticks(range(len(rows)), labels if index == 1 else [""] * len(rows))
        axes.set_xlim(0, 1.2 * highest)
        axes.set_title(title, color=_INK, loc="left", fontsize=11)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _panels(rows: Sequence[ComparedRow]) -> Iterator[tuple[str, list[float | None]]]:
    yield "images per second", [row.images_per_second for row in rows]
    if any(row.wh_per_1000_images is not None for row in rows):
        yield "Wh per 1,000 images", [row.wh_per_1000_images for row in rows]


def _label(row: ComparedRow) -> str:
    """Return what the row is, in two lines; a dollar sign would begin a formula."""
    host = f" on {_plain(row.machine.get('host'))}" if row.machine else ""
    precision = row.settings.get("precision", "")
    return f"{_plain(row.source)}{host}\n{describe_devices(row)}, {precision}".replace("$", r"\$")
