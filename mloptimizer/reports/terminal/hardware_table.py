"""Shows what the machine did while the trials of a study trained: means, peaks, time, energy and CO2.

A training that has ended shows the summary in its record; one that is running, or has no summary, shows its hardware
log. A value that could not be read is a dash, and a machine without GPUs says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import TRAINED_PHASES, Phase
from mloptimizer.core.words import counted
from mloptimizer.hardware.analysis.diagnosis import describe_trial
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH, find_grid
from mloptimizer.hardware.analysis.summary import summarise_columns
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.columns import Cell
from mloptimizer.hardware.read.vendors import describe_unused
from mloptimizer.reports.formatting import duration, fixed, is_number
from mloptimizer.reports.model.standings import StudyRecord, read_study_record
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.reports.terminal.study_page import facts_grid
from mloptimizer.reports.terminal.summaries import amount, summary_rows, total_words
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.store.workspace import Workspace

_LEGEND = "cores and RAM: of the trial; CPU: of the machine; wait: for images; GB: 1024 MB, peaks; all others: means."
_GPU_LEGEND = "GPU %: mean of its GPUs; GPU GB: of one GPU; W and Wh: of all GPUs of the trial."
_NO_GPU = "CPU only: these trials had no GPU, or there was no NVIDIA library to read it with."

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
"""Cell by title, the most important first: a narrow terminal leaves out the last."""
_OF_GPUS = ("GPU %", "GPU GB", "GPU W", "GPUs", "p95 %")
_OF_ENERGY = ("Wh", "CO2 g")


_Training = tuple[int, Phase, Mapping[str, Cell], Path, str]
"""Number, phase, hardware summary, log, and why the log cannot be read."""


def hardware_report(workspace: Workspace, study: str, number: int | None = None) -> RenderableType:
    """Return the hardware metrics of one trial's trainings, or one row per training of the study with the totals.

    Raises:
        UsageError: there is no such study, or nothing is known of such a trial.
    """
    trainings = list(_read(workspace, read_study_record(workspace, study), number))
    if not trainings:
        return no_logs(study, number)
    if number is None:
        return Group(_study_table(trainings), Text(_totals(trainings)))
    return Group(*(part for training in trainings for part in _trial_parts(study, training)))


def list_logs(
    workspace: Workspace, record: StudyRecord, number: int | None
) -> Iterator[tuple[int, Phase, TrialRecord | None, Path]]:
    """Yield number, phase, record and hardware log of the study's trainings, or of those of one trial."""
    standings = {standing.number: standing for standing in record.standings}
    for phase in TRAINED_PHASES:
        for each in standings if number is None else [number]:
            training = standings[each].record(phase) if each in standings else None
            yield each, phase, training, workspace.hardware_log(record.name, each, phase)


def no_logs(study: str, number: int | None) -> Text:
    """Return that the study has no hardware logs; of a single trial that is a UsageError."""
    if number is not None:
        raise UsageError(f"TRIAL {number}: study '{study}' has no hardware log of such a trial.")
    return Text(f"Study {study} has no hardware logs: none of its trials has started yet, or somebody removed them.")


def _read(workspace: Workspace, record: StudyRecord, number: int | None) -> Iterator[_Training]:
    for each, phase, training, log in list_logs(workspace, record, number):
        if known := training.result.get("hardware") if training else None:
            yield each, phase, known, log, ""
        elif log.is_file():
            try:
                yield each, phase, describe_trial(log, _grid_of(record)), log, ""
            except MloptimizerError as error:
                yield each, phase, {}, log, str(error)


def _grid_of(record: StudyRecord) -> float:
    stated = record.settings.get("grid_co2")
    try:
        return find_grid(stated).g_per_kwh if isinstance(stated, (int, float, str)) else WORLD_G_PER_KWH
    except UsageError:  # a country, and the table of countries is not installed here
        return WORLD_G_PER_KWH


def _study_table(trainings: Sequence[_Training]) -> FittingTable:
    summaries = [summary for _, _, summary, _, _ in trainings]
    no_gpus = not any(summary.get("gpus") for summary in summaries)
    no_energy = not any(is_number(summary.get("energy_wh")) for summary in summaries)
    unknown = {*(_OF_GPUS if no_gpus else ()), *(_OF_ENERGY if no_energy else ())}
    cells = {title: cell for title, cell in _COLUMNS.items() if title not in unknown}
    table = FittingTable()
    table.add_numbers("trial")
    table.add_words("phase")
    table.add_numbers(*cells)
    for number, phase, summary, _, _ in trainings:
        table.add_row(str(number), phase.words, *(Text(cell(summary)) for cell in cells.values()))
    return table


def _gigabytes(megabytes: Cell) -> float | None:
    return megabytes / 1024 if is_number(megabytes) else None


def _totals(trainings: Sequence[_Training]) -> str:
    summaries = [summary for _, _, summary, _, _ in trainings if summary]
    logged = sum(value for summary in summaries if is_number(value := summary.get("duration_s")))
    words = [f"{counted(len(trainings), 'training')}, {duration(logged)} of logs.", *total_words(summaries)]
    words += [_LEGEND, _GPU_LEGEND if any(summary.get("gpus") for summary in summaries) else _no_gpu()]
    return "\n".join([*words, *(damage for *_, damage in trainings if damage)])


def _no_gpu() -> str:
    unused = describe_unused()
    return f"{_NO_GPU} On this machine {unused}." if unused else _NO_GPU


def _trial_parts(study: str, training: _Training) -> Iterator[RenderableType]:
    number, phase, summary, log, damage = training
    yield Text(f"Trial {number} of study {study}, {phase.words}", style="bold")
    if damage:
        yield Text(damage)
        return
    yield facts_grid(summary_rows(summary))
    if not summary.get("gpus"):
        yield Text(_no_gpu())
    if log.is_file():
        try:
            trace = read_trace(log)
        except MloptimizerError as error:
            yield Text(str(error))
            return
        table = FittingTable("column of the log")
        table.add_numbers("mean", "peak")
        for name, values in summarise_columns(trace).items():
            table.add_row(Text(name), *(Text(fixed(value, 1)) for value in values))
        yield table
        yield Text(f"{len(trace)} rows over {duration(trace.duration_s)}: {log}")
