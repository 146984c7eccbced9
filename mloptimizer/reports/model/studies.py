"""Lists the studies of a workspace with data set, progress and best value."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.reports.model.searches_now import read_searches
from mloptimizer.reports.model.standings import completed_value, list_recorded_studies, read_study_record
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace


@dataclass(frozen=True)
class StudyLine:
    """A study in a line; what is unknown is None."""

    name: str
    dataset: str | None
    state: str  # starting, running, paused, cut off; otherwise finished, explored (not tested), stopped, unreadable
    done: int  # trials that have ended
    planned: int | None
    objective: str | None
    best: float | None
    trial: int | None  # that reached it
    changed_utc: str
    damage: str = ""


def last_change(workspace: Workspace, study: str) -> float:
    """Return when a file of the study was last written, as a Unix time in seconds."""
    folder = workspace.study(study)
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def read_studies(workspace: Workspace) -> list[StudyLine]:
    """Return the studies of the workspace, the last changed first; a damaged one raises nothing."""
    states = {search.study: search.state.value for search in read_searches(workspace, datetime.now(UTC))}
    changes = {name: last_change(workspace, name) for name in list_recorded_studies(workspace)}
    names = sorted(changes, key=lambda name: -changes[name])
    return [_read_study(workspace, name, states.get(name, ""), changes[name]) for name in names]


def _read_study(workspace: Workspace, name: str, state: str, changed: float) -> StudyLine:
    changed_utc = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    try:
        record = read_study_record(workspace, name)
        planned = MetricsStore(workspace, name).planned_trials()
    except MloptimizerError as error:
        return StudyLine(name, None, "unreadable", 0, None, None, None, None, changed_utc, str(error))
    done = sum(bool(standing.exploration and standing.exploration.result) for standing in record.standings)
    number, phase = record.winner or (None, None)
    leader = record.standing(number) if number is not None else None
    dataset = record.facts.get("dataset")
    return StudyLine(
        name,
        str(dataset["name"]) if isinstance(dataset, dict) and "name" in dataset else None,
        state or ("stopped" if done < planned else "finished" if record.is_over else "explored"),
        done,
        planned,
        record.objective.metric,
        completed_value(leader.record(phase)) if leader and phase else None,
        number,
        changed_utc,
    )


def studies_json(studies: Sequence[StudyLine]) -> str:
    """Return the studies as a JSON list."""
    return json.dumps([asdict(study) for study in studies], indent=2, ensure_ascii=False)
