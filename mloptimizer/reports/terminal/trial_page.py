"""Shows one trial in full: its model, its learning curves, and how it ended.

Everything is read from the files of the workspace; what is missing is a dash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import EndedAttempt
from mloptimizer.core.nouns import TRAINED_PHASES, Phase
from mloptimizer.core.words import counted
from mloptimizer.reports.formatting import duration, fixed, is_number, pairs, short, sparkline
from mloptimizer.reports.model.standings import (
    Standing,
    StudyRecord,
    attempts_made,
    best_value,
    epochs_trained,
    micro_batch,
    read_study_record,
)
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.reports.terminal.study_page import facts_grid
from mloptimizer.reports.terminal.summaries import energy_words, time_words
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.store.workspace import Workspace

_LONGEST_TABLE = 12  # epochs; a longer curve is thinned to the first, the best, the last and some between
_PARTS_OF_FIT = ("first_step", "training", "validation", "checkpoint")  # the other timings add up
_CURVE_COLUMNS = {
    "loss": "loss",
    "accuracy": "acc",
    "val_loss": "val loss",
    "val_accuracy": "val acc",
    "val_top_k_accuracy": "val top-k",
}


def trial_report(workspace: Workspace, study: str, number: int) -> RenderableType:
    """Return the trial in full: plan, parameters, learning curves, failure, timings and files.

    Raises:
        UsageError: there is no such study or trial.
    """
    record = read_study_record(workspace, study)
    standing = record.standing(number)
    if standing is None:
        raise UsageError(f"TRIAL {number}: study '{study}' has no such trial. Known: {_known_numbers(record)}.")
    title = f"Trial {number} of study {study}"
    if record.winner and record.winner[0] == number:
        title += f" ★ {record.leads_as}"
    parts: list[RenderableType] = [Text(title, style="bold"), facts_grid(_plan_rows(standing))]
    for phase in TRAINED_PHASES:
        if training := standing.record(phase):
            parts += _training_parts(record, training, phase)
            names = sorted(path.name for path in training.directory.iterdir() if not path.name.startswith("."))
            log = workspace.hardware_log(study, number, phase)
            files = f"{training.directory}: {', '.join(names)}"
            parts.append(facts_grid([("files", f"{files}\n{log}: hardware log" if log.is_file() else files)]))
    return Group(*parts)


def _known_numbers(record: StudyRecord) -> str:
    numbers = [standing.number for standing in record.standings]
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers)) or "none yet"


def _plan_rows(standing: Standing) -> list[tuple[str, str]]:
    rows = [("space", short(standing.plan.get("space"))), ("parameters", pairs(standing.params))]
    return [*rows, ("unreadable", standing.damage)] if standing.damage else rows


def _training_parts(record: StudyRecord, training: TrialRecord, phase: Phase) -> list[RenderableType]:
    plan, result, metric = training.plan, training.result, record.objective.metric
    start = "the exploration's weights" if plan.get("initial_weights") else "new weights"
    parts = {name: seconds for name, seconds in (result.get("timings") or {}).items() if name != "total"}
    timings = {
        f"of fit: {name.replace('_', ' ')}" if name in _PARTS_OF_FIT else name: duration(seconds)
        for name, seconds in parts.items()
    }
    summary = _hardware_rows(result)
    rows = [
        ("state", record.state(training)),
        (f"best {metric}", fixed(best_value(training, record.objective))),
        ("epochs", f"{short(epochs_trained(training))} of {short(plan.get('epochs'))}, from {start}"),
        ("seed", short(plan.get("seed"))),
        *_attempt_rows(training),
        # The hardware log splits the time of all attempts
        ("time", duration(result.get("seconds")) + (f" ({pairs(timings)})" if timings and not summary else "")),
        *summary,
    ]
    found: list[RenderableType] = [Text(f"\n{phase.words.capitalize()}", style="bold"), facts_grid(rows)]
    if training.epochs:
        found.append(facts_grid([(metric, _curve_line(training, metric))]))
        found.append(Padding(_curve_table(training, record), (0, 0, 0, 2)))
    if failure := result.get("failure"):
        kind = short(failure.get("kind")).replace("_", " ")
        found.append(Text(f"  failed: {kind}: {short(failure.get('message'))}", style="red"))
        found.append(Padding(Text(str(failure.get("traceback") or "").rstrip()), (0, 0, 0, 4)))
    return found


def _hardware_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the training's attempts spent their time, by its hardware log, and the energy they took."""
    summary = result.get("hardware")
    if not summary:
        return []
    split = f"{duration(summary.get('duration_s'))} ({time_words(summary)})"
    found = [("found", str(summary["findings"]))] if summary.get("findings") else []
    return [("hardware log", split), ("energy", energy_words(summary)), *found]


def _attempt_rows(training: TrialRecord) -> list[tuple[str, str]]:
    """Return the attempts where there were several, and the micro-batch where it is known."""
    rows, attempts = [], attempts_made(training)
    if attempts > 1:
        ends = [f"{attempt.attempt}: {_end_words(attempt)}" for attempt in training.attempts]
        rows.append(("attempts", "\n".join([f"{attempts}; time and state are those of the last", *ends])))
    if size := micro_batch(training):
        rows.append(("micro-batch", f"{size} images per GPU and pass"))
    return rows


def _end_words(attempt: EndedAttempt) -> str:
    kind, epochs = attempt.kind.replace("_", " "), counted(attempt.epochs, "epoch")
    message = f": {attempt.message}" if attempt.message else ""
    return f"{kind} after {duration(attempt.seconds)} and {epochs}{message}"


def _curve_line(training: TrialRecord, metric: str) -> str:
    values = [epoch.get(metric) for epoch in training.epochs]
    known = [value for value in values if is_number(value)]
    span = f"  {fixed(min(known))} to {fixed(max(known))}" if known else "no finite value"
    return sparkline(values, width=40) + span


def _curve_table(training: TrialRecord, record: StudyRecord) -> RenderableType:
    table = FittingTable()
    table.add_numbers("epoch", *_CURVE_COLUMNS.values(), "learning rate", "images/s", "time")
    best = _best_index(training.epochs, record)
    shown = _shown(len(training.epochs), best)
    for index in shown:
        epoch = training.epochs[index]
        metrics = [fixed(epoch.get(name)) for name in _CURVE_COLUMNS]
        end = [short(epoch.get("learning_rate"), 3), fixed(epoch.get("images_per_second"), 0)]
        mark = "★ " if index == best else ""
        cells = [f"{mark}{short(epoch.get('epoch'))}", *metrics, *end, duration(epoch.get("seconds"))]
        table.add_row(*map(Text, cells), style="bold" if index == best else "")
    if len(shown) == len(training.epochs):
        return table
    left_out = f"Shown: {len(shown)} of {len(training.epochs)} epochs, including the best; epochs.jsonl has all."
    return Group(table, Text(left_out, style="dim"))


def _best_index(epochs: Sequence[Mapping[str, Any]], record: StudyRecord) -> int | None:
    sign = 1 if record.objective.maximize else -1
    values = [epoch.get(record.objective.metric) for epoch in epochs]
    known = [(sign * value, -index) for index, value in enumerate(values) if is_number(value)]
    return -max(known)[1] if known else None


def _shown(count: int, best: int | None) -> list[int]:
    """Return the indices of the epochs to show: all of a short curve, else evenly spread ones and the best."""
    if count <= _LONGEST_TABLE:
        return list(range(count))
    spread = {round(step * (count - 1) / (_LONGEST_TABLE - 1)) for step in range(_LONGEST_TABLE)}
    return sorted(spread | ({best} if best is not None else set()))
