"""Reads from the files of a workspace what its searches are doing now.

It works while searches start, run and end, after a kill and with damaged files: what cannot be read is missing, and
`damage` says so. Only the end of a growing file is read. Nothing is written, and nothing here raises.
"""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.files import read_json
from mloptimizer.core.nouns import Phase
from mloptimizer.core.study_names import check_study_name
from mloptimizer.core.trial_files import RESULT
from mloptimizer.core.words import read_time
from mloptimizer.reports.formatting import is_number
from mloptimizer.reports.model.standings import is_search_running
from mloptimizer.store.workspace import Workspace

TAIL_BYTES = 64 * 1024  # read from the end of a log: about a minute of rows with 8 GPUs, and several without
_HEADER_BYTES = 256 * 1024  # longest first line of a log
SILENT_ROWS, SILENT_SECONDS = 5.0, 10.0  # a log is late after this many intervals without a row, and this long
FIRST_ROW_SECONDS = 120.0  # a new process may have to import TensorFlow first
STILL_SECONDS = 30.0  # in the part training, without a step
_PLACE = ("part", "epoch", "step")  # columns that change while a trial makes progress
_RUNNING_KINDS: Mapping[str, type] = {"pid": int, "host": str, "since_utc": str, "slots": list, "trials": list}


class SearchState(StrEnum):
    """The state of a search."""

    STARTING = "starting"  # its driver has no slots yet
    RUNNING = "running"
    PAUSED = "paused"  # until somebody resumes it
    CUT_OFF = "cut off"  # its driver was killed


@dataclass(frozen=True)
class TrialNow:
    """A running training; what is unknown is None."""

    number: int
    phase: Phase
    space: str
    slot: str
    attempt: int
    epochs: int  # planned
    running_s: float | None  # since this attempt began
    row: Mapping[str, str]  # the newest of its hardware log: cells by column
    row_time: datetime | None
    trouble: str  # what makes it look hung

    def value(self, column: str) -> float | None:
        """Return the cell of the newest row as a number; None where it is not a finite one."""
        with suppress(ValueError):
            value = float(self.row.get(column, ""))
            return value if math.isfinite(value) else None
        return None

    @property
    def part(self) -> str:
        """What it is doing, in a word of the hardware log; empty: something else, or unknown."""
        return self.row.get("part", "")


@dataclass(frozen=True)
class SearchNow:
    """A search that is running or was cut off."""

    study: str
    state: SearchState
    host: str
    since: datetime | None
    slots: tuple[Mapping[str, Any], ...]  # name, host, gpu_ids and cpu_ids of each
    trials: tuple[TrialNow, ...]
    explored: int  # trials of the exploration that have ended
    further_trained: int  # and of the hall of fame
    planned: int | None  # trials of the exploration
    damage: str  # which file cannot be read, and why
    paused: datetime | None  # since when


def read_searches(workspace: Workspace, now: datetime) -> list[SearchNow]:
    """Return the searches of the workspace that are running or were cut off, by name; `now` is in UTC."""
    searches = []
    for lock in sorted(workspace.metrics.glob("*/driver.lock")):  # a search that starts has no `study.json` yet
        with suppress(MloptimizerError):
            study = check_study_name(lock.parent.name)
            is_running, has_slots = is_search_running(workspace, study), workspace.running_file(study).is_file()
            if is_running or has_slots:
                state = SearchState.RUNNING if has_slots else SearchState.STARTING
                searches.append(_read_search(workspace, study, state if is_running else SearchState.CUT_OFF, now))
    return searches


def _read_search(workspace: Workspace, study: str, state: SearchState, now: datetime) -> SearchNow:
    facts, damage = _read(workspace.running_file(study), _RUNNING_KINDS)
    settings = _read(workspace.study_file(study), {"settings": dict})[0].get("settings", {})
    interval, planned = settings.get("monitor_seconds"), settings.get("trials")
    late_s = max(SILENT_SECONDS, SILENT_ROWS * (interval if is_number(interval) else 1.0))
    entries = facts.get("trials", ()) if state is not SearchState.CUT_OFF else ()
    trials = [trial for entry in entries if (trial := _read_trial(workspace, study, entry, late_s, now))]
    paused = read_time(facts.get("paused_utc"))
    return SearchNow(
        study,
        SearchState.PAUSED if paused and state is SearchState.RUNNING else state,
        host=facts.get("host", ""),
        since=read_time(facts.get("since_utc")),
        slots=tuple(slot for slot in facts.get("slots", ()) if isinstance(slot, Mapping)),
        trials=tuple(trials),
        explored=len(workspace.list_trainings(study, Phase.EXPLORATION, RESULT)),
        further_trained=len(workspace.list_trainings(study, Phase.HALL_OF_FAME, RESULT)),
        planned=planned if isinstance(planned, int) else None,
        damage=damage,
        paused=paused,
    )


def _read(path: Path, kinds: Mapping[str, type]) -> tuple[dict[str, Any], str]:
    """Return the file's facts, empty where it is missing or damaged, and the damage."""
    try:
        return read_json(path, kinds), ""
    except MloptimizerError as error:
        return {}, str(error) if path.exists() else ""


def _read_trial(workspace: Workspace, study: str, entry: object, late_s: float, now: datetime) -> TrialNow | None:
    """Return the trial of the entry of `running.json`; None where the entry is damaged."""
    if not isinstance(entry, Mapping) or not isinstance(number := entry.get("number"), int) or number < 0:
        return None
    if entry.get("phase") not in tuple(Phase):
        return None
    phase, since = Phase(entry["phase"]), read_time(entry.get("since_utc"))
    rows = [
        (time, row)
        for row in read_last_rows(workspace.hardware_log(study, number, phase))
        if (time := read_time(row.get("time_utc"))) and (since is None or time >= since)  # not of an earlier attempt
    ]
    time, row = rows[-1] if rows else (None, {})
    running_s = (now - since).total_seconds() if since else None
    attempt, epochs = entry.get("attempt"), entry.get("epochs")
    return TrialNow(
        number,
        phase,
        space=str(entry.get("space", "")),
        slot=str(entry.get("slot", "")),
        attempt=attempt if isinstance(attempt, int) else 1,
        epochs=epochs if isinstance(epochs, int) else 0,
        running_s=running_s,
        row=row,
        row_time=time,
        trouble=_find_trouble(rows, running_s, late_s, now),
    )


def _find_trouble(
    rows: Sequence[tuple[datetime, Mapping[str, str]]], running_s: float | None, late_s: float, now: datetime
) -> str:
    """Return what makes the trial look hung; empty where nothing does."""
    if not rows:
        waited = running_s or 0.0
        return f"no row since it began, {waited:.0f} s ago" if waited > FIRST_ROW_SECONDS else ""
    newest, row = rows[-1]
    age = (now - newest).total_seconds()
    if age > late_s:
        return f"last row {age:.0f} s ago"
    if row.get("part") != "training":
        return ""
    alike = takewhile(lambda timed: all(timed[1].get(name) == row.get(name) for name in _PLACE), reversed(rows))
    still = (now - min(time for time, _ in alike)).total_seconds()
    return f"no step for {still:.0f} s" if still > STILL_SECONDS else ""


def read_last_rows(path: Path) -> list[dict[str, str]]:
    """Return the last whole rows of a hardware log, as many as `TAIL_BYTES` hold."""
    try:
        with path.open("rb") as file:
            header = file.readline(_HEADER_BYTES)
            start = max(len(header), file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            lines = file.read(TAIL_BYTES).split(b"\n")[:-1]  # a line without its end is torn
    except OSError:
        return []
    names = header.decode(errors="replace").rstrip("\n").split(",")
    if not header.endswith(b"\n") or names[0] != "time_utc":
        return []
    rows = [line.decode(errors="replace").split(",") for line in lines[start > len(header) :]]
    return [dict(zip(names, cells, strict=True)) for cells in rows if len(cells) == len(names)]
