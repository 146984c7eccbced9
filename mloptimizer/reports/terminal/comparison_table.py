"""Shows a comparison of trainings: as a table that fits a terminal of 80 columns, as CSV and as a chart.

An unknown value is a dash, in the CSV an empty cell.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.core.words import counted
from mloptimizer.hardware.read.machine_facts import describe_machine
from mloptimizer.reports.formatting import MISSING, fixed, short
from mloptimizer.reports.model.comparison import ComparedRow, Comparison, Pairs
from mloptimizer.reports.model.trainings import COMPARED
from mloptimizer.reports.terminal.fitting_table import FittingTable

_LEGEND = (
    "images/s: training only; s/epoch: with validation (medians over the trainings, without first epochs). W, Wh: "
    "means over whole trainings; Wh/1k: W over images/s, for 1,000 images. × first: images/s over the first row's, for "
    "the same models; scaling: images/s over n times that of one GPU of the same name, for the same models with the "
    "same precision and XLA; in parentheses: the number of models. cost/1M: of a million images. start: until the "
    "epochs reach their steady pace; noise: the difference between two repetitions."
)
_INK, _BACKGROUND, _BAR = "#222222", "#ffffff", "#4f6d8f"
_MACHINE_FACTS = ("host", "cpu", "cores", "ram_mb", "python", "tensorflow", "keras", "cuda")

Columns = Mapping[str, tuple[str, Callable[[ComparedRow], str]]]
"""By name: title and cell."""

_CSV_VALUES: Mapping[str, Callable[[ComparedRow], object]] = {
    **{name: attrgetter(name) for name in ("images_per_second", "seconds_per_epoch")},
    "speed_ratio_to_first_row": attrgetter("against_first.ratio"),
    "speed_ratio_models": attrgetter("against_first.count"),
    **{name: attrgetter(name) for name in ("power_w", "wh_per_trial", "wh_per_1000_images", "startup_s")},
    "ram_peak_mb": attrgetter("ram_mb"),
    "gpu_utilization_percent": attrgetter("gpu_percent"),
    "gpu_memory_peak_mb": attrgetter("gpu_memory_mb"),
    "noise_percent": attrgetter("noise_percent"),
    "scaling_efficiency": attrgetter("scaling.ratio"),
    "scaling_models": attrgetter("scaling.count"),
    "price_per_hour": attrgetter("price_per_hour"),
    "price_unit": lambda row: _price_unit(row) if row.price_per_hour is not None else None,
    **{name: attrgetter(name) for name in ("cost_per_trial", "cost_per_million_images")},
}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Return the rows, then their machines, the settings that differ, a legend, and what is missing."""
    if not comparison.rows:
        return Group(Text("There is nothing to compare yet."), *map(Text, comparison.notes))
    values, missing = _values_table(comparison.rows, _COLUMNS, "train-\nings")
    more, missing_more = _values_table(comparison.rows, _MORE_COLUMNS)
    parts: list[RenderableType] = [values, Text(), _places_table(comparison)]
    if len(more.columns) > 1:
        parts += [Text(), more]
    if settings := comparison.differing_settings():
        parts += [Text(), _settings_table(comparison, settings)]
    parts += [Text(), Text(_LEGEND, style="dim")]
    if unknown := [name for name in (*missing, *missing_more) if name not in _OPTIONAL]:
        parts.append(Text(f"Unknown for all rows: {', '.join(unknown)}.", style="dim"))
    if any(row.price_per_hour is not None for row in comparison.rows):
        parts.append(Text(_price_line(comparison)))
    return Group(*parts, *map(Text, comparison.notes))


def _values_table(rows: Sequence[ComparedRow], columns: Columns, *before: str) -> tuple[FittingTable, list[str]]:
    """Return a table of the columns that are known for any row, and the names of the others."""
    table = FittingTable(lined=False)
    shown = {name: cell for name, (_, cell) in columns.items() if any(cell(row) != MISSING for row in rows)}
    table.add_numbers("", *before, *(columns[name][0] for name in shown))
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
    table = FittingTable("", "study or file", "host", "machine", "per training", lined=False)
    for number, row in enumerate(comparison.rows, start=1):
        host = _plain(row.machine.get("host")) if row.machine else MISSING
        machine = _plain(describe_machine(row.machine)) if row.machine else MISSING
        table.add_row(str(number), Text(row.source), Text(host), Text(machine), _describe_devices(row))
    return table


def _describe_devices(row: ComparedRow) -> str:
    """Return what each training of the row had, such as 2 GPUs."""
    if row.gpus is None:
        return MISSING
    return counted(row.gpus, "GPU") if row.gpus else counted(row.cores or "?", "core")


def _settings_table(comparison: Comparison, settings: list[str]) -> FittingTable:
    """Return a row per setting and a column per row of the comparison: settings are few, and their names long."""
    table = FittingTable("setting", *(str(number) for number in range(1, len(comparison.rows) + 1)), lined=False)
    for name in settings:
        table.add_row(name, *(Text(_plain(row.settings.get(name)) or MISSING) for row in comparison.rows))
    return table


def _plain(value: object) -> str:
    """Return text of a file from anywhere without the control characters that a terminal would obey."""
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
        f"Prices: {'; '.join(found)}. A training pays for its GPUs, or for its share of a shared GPU; without a GPU, "
        "for its share of the machine's cores."
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return the comparison as CSV: its rows with all values, the machine and all settings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name.replace(" ", "_") for name in COMPARED]
    writer.writerow(["source", *_MACHINE_FACTS, "gpu", "gpu_driver", "gpus", "trainings", *_CSV_VALUES, *names])
    for row in comparison.rows:
        facts = [_plain(row.machine.get(name)) for name in _MACHINE_FACTS]
        listed = row.machine.get("gpus")
        gpus = [gpu for gpu in (listed if isinstance(listed, list) else ()) if isinstance(gpu, Mapping)]
        names_of_gpus = [" + ".join(_plain(gpu.get(key)) for gpu in gpus) for key in ("name", "driver")]
        values = [value(row) for value in _CSV_VALUES.values()]
        cells = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
        settings = [_plain(row.settings.get(name)) for name in COMPARED]
        writer.writerow([row.source, *facts, *names_of_gpus, row.gpus, row.trainings, *cells, *settings])
    return text.getvalue()


def comparison_chart(comparison: Comparison) -> bytes:
    """Return a PNG: a bar per row for the images per second, and where it is known another for Wh per 1,000 images."""
    from matplotlib.figure import Figure  # without pyplot it draws with Agg, which needs no display

    rows = comparison.rows
    panels = [("images per second", [row.images_per_second for row in rows])]
    if any(row.wh_per_1000_images is not None for row in rows):
        panels.append(("Wh per 1,000 images", [row.wh_per_1000_images for row in rows]))
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


def _label(row: ComparedRow) -> str:
    """Return the row's name in two lines; an unescaped dollar sign would begin a formula."""
    host = f" on {_plain(row.machine.get('host'))}" if row.machine else ""
    precision = row.settings.get("precision", "")
    return f"{_plain(row.source)}{host}\n{_describe_devices(row)}, {precision}".replace("$", r"\$")
