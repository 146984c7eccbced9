"""Shows what the machine did while the trials of a study were trained: means, peaks, time, energy and CO2.

A training that has ended shows the figures of its record, one that runs or is older than those, what its hardware log
says. A figure that was not read is a dash, and a machine without GPUs says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import TRAINED_PHASES, Phase
from mloptimizer.hardware.analysis.diagnosis import describe_trial
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH, find_grid
from mloptimizer.hardware.analysis.summary import summarise_columns
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.columns import Cell
from mloptimizer.hardware.read.vendors import describe_unused
from mloptimizer.reports.formatting import duration, fixed, is_number
from mloptimizer.reports.model.standings import StudyRecord, find_study, read_study_record
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.reports.terminal.study_page import facts_grid
from mloptimizer.reports.terminal.summaries import amount, summary_rows, total_words
from mloptimizer.store.workspace import Workspace

_LEGEND = "cores and RAM: of the trial; CPU: of the machine; wait: for images; GB: peaks of 1024 MB; the rest: means."
_GPU_LEGEND = "GPU %: mean of its GPUs; GPU GB: of one GPU; W and Wh: of all GPUs of the trial."
_NO_GPU = "CPU only: these trials had no GPU, or no NVIDIA library to read it with."

_COLUMNS: Mapping[str, Callable[[Mapping[str, Cell]], str]] = {
    "time": lambda summary: duration(summary.get("duration_s")),
    "images/s": lambda summary: fixed(summary.get("images_per_second"), 0),
    "wait %": lambda summary: fixed(summary.get("data_wait_percent"), 0),
    "GPU %": lambda summary: fixed(summary.get("gpu_utilization_percent"), 0),
    "GPU GB": lambda summary: fixed(_gigabytes(summary.get("gpu_memory_peak_mb")), 1),
    "GPU W": lambda summary: fixed(summary.get("gpu_power_w"), 0),
    "Wh": lambda summary: amount(summary.get("energy_wh")),
    "CO2 g": lambda summary: amount(summary.get("co2_g")),
    "cores": lambda summary: fixed(summary.get("process_cores"), 2),
    "RAM GB": lambda summary: fixed(_gigabytes(summary.get("ram_peak_mb")), 1),
    "CPU %": lambda summary: fixed(summary.get("cpu_percent"), 0),
    "idle": lambda summary: duration(summary.get("idle_s")),
    "GPUs": lambda summary: fixed(summary.get("gpus") or None, 0),
    "p95 %": lambda summary: fixed(summary.get("gpu_utilization_p95_percent"), 0),
}
"""What stands under each title, the most important first: a narrow terminal leaves out the last."""
_OF_GPUS = ("GPU %", "GPU GB", "GPU W", "GPUs", "p95 %")
_OF_ENERGY = ("Wh", "CO2 g")


@dataclass(frozen=True)
class TrialHardware:
    """What the hardware did during one training; `damage` says why that cannot be told."""

    number: int
    phase: Phase
    summary: Mapping[str, Cell]
    log: Path
    damage: str = ""


def hardware_report(workspace: Workspace, study: str, number: int | None = None) -> RenderableType:
    """Return the figures of one trial's trainings, or one row per training of the study with the totals.

    Raises:
        UsageError: there is no such study, or nothing is known of such a trial.
    """
    found = list(_read(workspace, read_study_record(workspace, find_study(workspace, study)), number))
    if not found and number is None:
        return Text(f"Study {study} has no hardware logs: none of its trials has started yet, or they were removed.")
    if not found:
        raise UsageError(f"TRIAL {number}: study '{study}' has no hardware log of such a trial.")
    if number is None:
        return Group(_study_table(found), Text(_totals(found)))
    return Group(*(part for each in found for part in _trial_parts(study, each)))


def _read(workspace: Workspace, record: StudyRecord, number: int | None) -> Iterator[TrialHardware]:
    standings = {standing.number: standing for standing in record.standings}
    for phase in TRAINED_PHASES:
        for each in standings if number is None else [number]:
            log = workspace.hardware_log(record.name, each, phase)
            training = standings[each].record(phase) if each in standings else None
            if known := training.result.get("hardware") if training else None:
                yield TrialHardware(each, phase, known, log)
            elif log.is_file():
                try:
                    yield TrialHardware(each, phase, describe_trial(log, _grid_of(record)), log)
                except MloptimizerError as error:
                    yield TrialHardware(each, phase, {}, log, str(error))


def _grid_of(record: StudyRecord) -> float:
    settings = record.facts.get("settings")
    stated = settings.get("grid_co2") if isinstance(settings, Mapping) else None
    try:
        return find_grid(stated).g_per_kwh if isinstance(stated, (int, float, str)) else WORLD_G_PER_KWH
    except UsageError:  # a country, and its table is not installed here
        return WORLD_G_PER_KWH


def _study_table(found: Sequence[TrialHardware]) -> FittingTable:
    with_gpus = any(each.summary.get("gpus") for each in found)
    with_energy = any(is_number(each.summary.get("energy_wh")) for each in found)
    unknown = (() if with_gpus else _OF_GPUS) + (() if with_energy else _OF_ENERGY)
    cells = {title: cell for title, cell in _COLUMNS.items() if title not in unknown}
    table = FittingTable()
    table.add_numbers("trial")
    table.add_words("phase")
    table.add_numbers(*cells)
    for each in found:
        table.add_row(str(each.number), each.phase.words, *(Text(cell(each.summary)) for cell in cells.values()))
    return table


def _gigabytes(megabytes: Cell) -> float | None:
    return megabytes / 1024 if is_number(megabytes) else None


def _totals(found: Sequence[TrialHardware]) -> str:
    summaries = [each.summary for each in found if each.summary]
    lasted = sum(value for summary in summaries if is_number(value := summary.get("duration_s")))
    words = [f"{len(found)} trainings, {duration(lasted)} of logs.", *total_words(summaries)]
    words += [_LEGEND, _GPU_LEGEND if any(summary.get("gpus") for summary in summaries) else _no_gpu()]
    words += [each.damage for each in found if each.damage]
    return "\n".join(words)


def _no_gpu() -> str:
    unused = describe_unused()
    return f"{_NO_GPU} On this machine {unused}." if unused else _NO_GPU


def _trial_parts(study: str, each: TrialHardware) -> Iterator[RenderableType]:
    yield Text(f"Trial {each.number} of study {study}, {each.phase.words}", style="bold")
    if each.damage:
        yield Text(each.damage)
        return
    yield facts_grid(summary_rows(each.summary))
    if not each.summary.get("gpus"):
        yield Text(_no_gpu())
    if not each.log.is_file():
        return
    try:
        trace = read_trace(each.log)
    except MloptimizerError as error:
        yield Text(str(error))
        return
    yield _figures_table(summarise_columns(trace))
    yield Text(f"{len(trace)} rows over {duration(trace.duration_s)}: {each.log}")


def _figures_table(figures: Mapping[str, tuple[float | None, float | None]]) -> FittingTable:
    table = FittingTable("column of the log")
    table.add_numbers("mean", "peak")
    for name, (mean, peak) in figures.items():
        table.add_row(Text(name), Text(fixed(mean, 1)), Text(fixed(peak, 1)))
    return table
