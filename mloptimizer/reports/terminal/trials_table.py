"""Shows the trials of a study as a table, for a terminal or as a data frame.

Everything is read from the files of the workspace; what is missing is a dash.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from mloptimizer.core.nouns import TRAINED_PHASES, Outcome, Phase
from mloptimizer.core.words import counted
from mloptimizer.hardware.analysis.diagnosis import HARDWARE_METRICS
from mloptimizer.reports.formatting import MISSING, duration, fixed, is_number, short
from mloptimizer.reports.model.standings import (
    Standing,
    StudyRecord,
    attempts_made,
    best_value,
    completed_value,
    epochs_trained,
    micro_batch,
    read_study_record,
)
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.store.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_STYLES = {"completed": "green", "pruned": "yellow", "failed": "red", "unreadable": "red", "running": "cyan"}
_TELLING = ("learning_rate", "optimizer", "width", "stages", "normalization")
_MOST_PARAMETERS = 4


def trials_table(workspace: Workspace, study: str, sort: str = "number") -> RenderableType:
    """Return one row per trial of the study, the leading one marked, and lines with the counts.

    Args:
        sort: `number`, or `value`: the best first, trials without a value last.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    record = read_study_record(workspace, study)
    standings = list(record.standings)
    if sort == "value":
        sign = -1 if record.objective.maximize else 1
        standings.sort(key=lambda standing: _sort_key(standing, record, sign))
    return Group(_table(record, standings), Text(_count_line(record)))


def _sort_key(standing: Standing, record: StudyRecord, sign: int) -> tuple[int, float]:
    for rank, phase in enumerate(reversed(TRAINED_PHASES)):
        if (value := completed_value(standing.record(phase))) is not None:
            return rank, sign * value
    value = best_value(standing.exploration, record.objective)
    return (2, sign * value) if value is not None else (3, 0.0)


def _table(record: StudyRecord, standings: Sequence[Standing]) -> FittingTable:
    parameters = find_telling_parameters(standings, _MOST_PARAMETERS)
    table = FittingTable(extras=len(parameters))
    table.add_numbers("trial")
    table.add_words("space", "state")
    table.add_numbers(record.objective.metric.replace("_", " "), "epochs", "hall of\nfame", "time")
    repeated = any(attempts_made(training) > 1 for standing in standings for training in standing.trainings)
    if repeated:
        table.add_numbers("attempts", "micro batch")
    table.add_words(*(name.replace("_", " ") for name in parameters))
    for standing in standings:
        cells = _cells(record, standing)
        if repeated:
            sizes = [size for training in standing.trainings if (size := micro_batch(training))]
            cells.append(Text(str(max(map(attempts_made, standing.trainings), default=0))))
            cells.append(Text(short(min(sizes, default=None))))
        table.add_row(*cells, *(Text(short(standing.params.get(name), 3)) for name in parameters))
    return table


def _cells(record: StudyRecord, standing: Standing) -> list[Text]:
    explored, long = standing.exploration, standing.hall_of_fame
    leads = record.winner is not None and record.winner[0] == standing.number
    seconds = [training.result.get("seconds") for training in standing.trainings]
    known = [value for value in seconds if is_number(value)]
    state = "unreadable" if standing.damage and not explored else record.state(explored)
    kind = failure_kind(explored)
    long_state = record.state(long)
    is_valued = long_state in ("", Outcome.COMPLETED)
    return [
        Text(f"{'★ ' if leads else ''}{standing.number}", style="bold" if leads else ""),
        Text(short(standing.plan.get("space"))),
        Text(f"{state}: {kind}" if kind else state or MISSING, style=_STYLES.get(state, "")),
        Text(fixed(best_value(explored, record.objective)), style="dim" if completed_value(explored) is None else ""),
        Text(short(epochs_trained(explored))),
        Text(fixed(completed_value(long)) if is_valued else long_state, style=_STYLES.get(long_state, "")),
        Text(duration(sum(known)) if known else MISSING),
    ]


def failure_kind(record: TrialRecord | None) -> str:
    """Return the kind of the training's failure, or empty text."""
    failure = record.result.get("failure") if record else None
    return str(failure.get("kind", "error")).replace("_", " ") if failure else ""


def find_telling_parameters(standings: Sequence[Standing], count: int) -> list[str]:
    """Return the parameters that distinguish the trials best: varying ones, known names and frequent ones first."""
    seen: dict[str, list[str]] = {}
    for standing in standings:
        for name, value in standing.params.items():
            seen.setdefault(name, []).append(str(value))
    varying = [name for name, values in seen.items() if len(set(values)) > 1]
    order = {name: rank for rank, name in enumerate(_TELLING)}
    varying.sort(key=lambda name: (order.get(name, len(order)), -len(seen[name])))
    return varying[:count]


def count_states(record: StudyRecord, phase: Phase) -> Counter[str]:
    """Return how many trainings of the phase there are by state."""
    trainings = [standing.record(phase) for standing in record.standings]
    return Counter(record.state(training) for training in trainings if training)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return text such as ``5 completed, 1 failed``."""
    order = ("completed", "pruned", "failed", "running", "unfinished")
    names = [*order, *sorted(set(counts) - set(order))]
    return ", ".join(f"{counts[name]} {name}" for name in names if counts.get(name)) or "none"


def _count_line(record: StudyRecord) -> str:
    explored = counts_in_words(count_states(record, Phase.EXPLORATION))
    parts = [f"{counted(len(record.standings), 'trial')}: {explored}."]
    if hall_of_fame := count_states(record, Phase.HALL_OF_FAME):
        parts.append(f"Hall of fame: {counts_in_words(hall_of_fame)}.")
    if damaged := sum(bool(standing.damage) for standing in record.standings):
        parts.append(f"{damaged} with unreadable files.")
    if record.winner:
        parts.append(f"★ {record.leads_as}: trial {record.winner[0]} ({record.winner[1].words}).")
    return "\n".join(parts)


def trials_frame(workspace: Workspace, study: str) -> "pd.DataFrame":
    """Return one row per trial: state, values, epochs, seconds, and every parameter as a column `params_NAME`.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    import pandas as pd

    record = read_study_record(workspace, study)
    return pd.DataFrame([_frame_row(record, standing) for standing in record.standings]).convert_dtypes()


def _frame_row(record: StudyRecord, standing: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": standing.number,
        "space": standing.plan.get("space"),
        "winner": record.winner is not None and record.winner[0] == standing.number,
    }
    for prefix, training in (("", standing.exploration), ("hall_of_fame_", standing.hall_of_fame)):
        hardware = training.result.get("hardware", {}) if training else {}
        row |= {
            f"{prefix}state": record.state(training) or None,
            f"{prefix}{record.objective.metric}": best_value(training, record.objective),
            f"{prefix}epochs": epochs_trained(training),
            f"{prefix}seconds": training.result.get("seconds") if training else None,
            f"{prefix}failure": failure_kind(training) or None,
            f"{prefix}attempts": attempts_made(training) or None,
            f"{prefix}micro_batch": micro_batch(training),
            **{f"{prefix}hardware_{name}": hardware.get(name) for name in HARDWARE_METRICS},
        }
    return row | {f"params_{name}": value for name, value in standing.params.items()}
