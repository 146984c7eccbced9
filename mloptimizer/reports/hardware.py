"""Shows what the machine did while the trials of a study were trained: means, peaks and energy.

Everything is read from the hardware logs; a figure that was not read is a dash, and a machine without GPUs says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mloptimizer.errors import MloptimizerError, UsageError
from mloptimizer.hardware.summary import LogSummary, summarise_log
from mloptimizer.hardware.vendors import describe_unused
from mloptimizer.records import Phase
from mloptimizer.reports.figures import MISSING, duration, fixed, is_figure
from mloptimizer.reports.standings import find_study, read_study_record
from mloptimizer.reports.study import PHASE_NAMES
from mloptimizer.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_MACHINE_TITLES = ("time", "cores", "RAM GB", "CPU %", "disk MB/s")
_GPU_TITLES = ("GPUs", "GPU %", "GPU GB", "GPU W", "Wh")
_LEGEND = "cores and RAM: of the trial; CPU and disk reads: of the machine; GB: peaks of 1024 MB; the rest: means."
_GPU_LEGEND = "GPU %, GB and W: of one GPU; Wh: of all GPUs of the trial."
_NO_GPU = "CPU only: these trials had no GPU, or no NVIDIA library to read it with."


@dataclass(frozen=True)
class TrialLog:
    """The summary of one training's hardware log; None where the log cannot be read, `damage` says why."""

    number: int
    phase: Phase
    summary: LogSummary | None
    damage: str = ""

    def mean(self, column: str) -> float | None:
        """Return the mean of a column; of a column of GPUs (without its gpu0_), over all GPUs."""
        return _over_gpus(self.summary, column, "mean")

    def peak(self, column: str) -> float | None:
        """Return the peak of a column; of a column of GPUs, the highest of any GPU."""
        return _over_gpus(self.summary, column, "peak")


def hardware_report(workspace: Workspace, study: str, number: int | None = None) -> RenderableType:
    """Return the figures of one trial's logs, or one row per training of the study with the totals.

    Raises:
        UsageError: there is no such study, or it has no such log.
    """
    logs = list(_read_logs(workspace, find_study(workspace, study), number))
    if not logs and number is None:
        return Text(f"Study {study} has no hardware logs: none of its trials has started yet, or they were removed.")
    if not logs:
        raise UsageError(f"TRIAL {number}: study '{study}' has no hardware log of such a trial.")
    if number is None:
        return Group(_study_table(logs), Text(_totals(logs)))
    return Group(*(part for log in logs for part in _trial_parts(study, log)))


def _read_logs(workspace: Workspace, study: str, number: int | None) -> Iterator[TrialLog]:
    numbers = [standing.number for standing in read_study_record(workspace, study).standings]
    for phase in PHASE_NAMES:
        for each in numbers if number is None else [number]:
            path = workspace.hardware_log(study, each, phase)
            if not path.is_file():
                continue
            try:
                yield TrialLog(each, phase, summarise_log(path))
            except MloptimizerError as error:
                yield TrialLog(each, phase, None, str(error))


def _gpus(summary: LogSummary | None) -> list[str]:
    """Return the GPUs of which the log tells anything, as gpu0, gpu1 and so on."""
    if summary is None:
        return []
    known = summary.figures.dropna(how="all").index
    return sorted({name.split("_")[0] for name in known if name.startswith("gpu")}, key=lambda name: int(name[3:]))


def _over_gpus(summary: LogSummary | None, column: str, kind: str) -> float | None:
    if summary is None:
        return None
    names = [column, *(f"{gpu}_{column}" for gpu in _gpus(summary))]
    values = [float(value) for value in summary.figures[kind].reindex(names) if is_figure(value)]
    if not values:
        return None
    return max(values) if kind == "peak" else sum(values) / len(values)


def _study_table(logs: Sequence[TrialLog]) -> Table:
    with_gpus = any(_gpus(log.summary) for log in logs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right")
    table.add_column("phase")
    for title in _MACHINE_TITLES + (_GPU_TITLES if with_gpus else ()):
        table.add_column(title, justify="right", overflow="fold")
    for log in logs:
        cells = _machine_cells(log) + (_gpu_cells(log) if with_gpus else [])
        table.add_row(str(log.number), PHASE_NAMES[log.phase], *map(Text, cells))
    return table


def _machine_cells(log: TrialLog) -> list[str]:
    return [
        duration(log.summary.duration_s if log.summary else None),
        fixed(_scaled(log.mean("process_cpu_percent"), 100), 2),
        fixed(_scaled(log.peak("process_rss_mb"), 1024), 1),
        fixed(log.mean("cpu_percent"), 0),
        fixed(log.mean("disk_read_mb_s"), 1),
    ]


def _gpu_cells(log: TrialLog) -> list[str]:
    gpus = _gpus(log.summary)
    return [
        str(len(gpus)) if gpus else MISSING,
        fixed(log.mean("utilization_percent"), 0),
        fixed(_scaled(log.peak("memory_used_mb"), 1024), 1),
        fixed(log.mean("power_w"), 0),
        fixed(log.summary.gpu_energy_wh if log.summary else None, 2),
    ]


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _totals(logs: Sequence[TrialLog]) -> str:
    summaries = [log.summary for log in logs if log.summary]
    energies = [summary.gpu_energy_wh for summary in summaries if summary.gpu_energy_wh is not None]
    words = [f"{len(logs)} trainings, {duration(sum(summary.duration_s for summary in summaries))} of logs."]
    if energies:
        known = "" if len(energies) == len(logs) else f" ({len(energies)} of {len(logs)} logs tell it)"
        words.append(f"Energy of the GPUs: {fixed(sum(energies), 2, 'Wh')}{known}.")
    words += [_LEGEND, _GPU_LEGEND if any(_gpus(summary) for summary in summaries) else _no_gpu()]
    words += [log.damage for log in logs if log.damage]
    return "\n".join(words)


def _no_gpu() -> str:
    unused = describe_unused()
    return f"{_NO_GPU} On this machine {unused}." if unused else _NO_GPU


def _trial_parts(study: str, log: TrialLog) -> Iterator[RenderableType]:
    yield Text(f"Trial {log.number} of study {study}, {PHASE_NAMES[log.phase]}", style="bold")
    if log.summary is None:
        yield Text(log.damage)
        return
    summary = log.summary
    yield Text(f"{summary.rows} rows over {duration(summary.duration_s)}")
    yield _figures_table(summary.figures)
    if not _gpus(summary):
        yield Text(_no_gpu())
    else:
        yield Text(f"energy of the GPUs: {fixed(summary.gpu_energy_wh, 2, 'Wh')}")


def _figures_table(figures: "pd.DataFrame") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("figure")
    for title in ("mean", "peak"):
        table.add_column(title, justify="right")
    for name, row in figures.iterrows():
        table.add_row(Text(str(name)), Text(fixed(row["mean"], 1)), Text(fixed(row["peak"], 1)))
    return table
