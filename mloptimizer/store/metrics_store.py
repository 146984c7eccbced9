"""Keeps what a study learned as files that a person can read without mloptimizer: JSON and JSON lines.

`metrics_readme` says which file contains what. Only the driver writes them, except for checkpoints, cache and orders.
Whole files appear at once; the reader skips a torn last line of a growing one.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import EndedAttempt, EpochRecord
from mloptimizer.core.files import (
    UNFINISHED,
    append_line,
    line_of_json,
    read_json,
    read_json_lines,
    write_json,
    write_readme,
    write_text,
)
from mloptimizer.core.nouns import Outcome, Phase, Slot, TrialPlan, TrialResult, to_json
from mloptimizer.core.system_errors import file_error
from mloptimizer.core.trial_files import ATTEMPTS, CHECKPOINTS, EPOCHS, PLAN, RESULT, WEIGHTS
from mloptimizer.core.words import utc_now
from mloptimizer.hardware.read.machine_facts import slot_facts
from mloptimizer.store.metrics_readme import render_metrics_readme
from mloptimizer.store.workspace import Workspace

_ATTEMPT = TypeAdapter(EndedAttempt)
_NUMBER = (int, float, type(None))
_PLAN_KINDS = {"space": str, "params": dict, "dataset": dict, "attempt": int, "accumulation_steps": int}
_RESULT_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **{"outcome": str, "accumulation_steps": int, "failure": (dict, type(None))},
    **dict.fromkeys(("metrics", "timings", "hardware", "choices"), dict),
    **dict.fromkeys(("value", "seconds", "memory_mb"), _NUMBER),
}


def digest(text: str) -> str:
    """Return a short hash that distinguishes the texts of search spaces."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrialRecord:
    """One training as recorded on disk: `plan` and `result` as JSON data, `result` empty while it runs."""

    number: int
    plan: Mapping[str, Any]
    epochs: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]
    directory: Path
    attempts: tuple[EndedAttempt, ...] = ()  # those followed by another, or cut off

    @property
    def weights(self) -> Path | None:
        """The weights of the best epoch if they were kept."""
        path = self.directory / WEIGHTS
        return path if path.is_file() else None


class MetricsStore:
    """Writes and reads the records of one study."""

    def __init__(self, workspace: Workspace, study: str) -> None:
        self._workspace = workspace
        self._study = study
        self._epochs: dict[tuple[int, Phase], int] = {}  # the last one recorded

    def write_study(self, facts: Mapping[str, Any], spaces: Mapping[str, str]) -> None:
        """Write the study's facts, the text of each of its search spaces, and the folder's README."""
        write_json(self._workspace.study_file(self._study), facts)
        for name, source in spaces.items():
            write_text(self._workspace.space_snapshot(self._study, name), source)
        write_readme(self._workspace.metrics / "README.md", render_metrics_readme())

    def read_study(self) -> dict[str, Any]:
        """Return the study's facts. Raises UsageError if they are missing or damaged."""
        return read_json(self._workspace.study_file(self._study))

    def planned_trials(self) -> int:
        """Return how many models the study will explore; raises as `read_study`."""
        settings = self.read_study().get("settings")
        trials = settings.get("trials") if isinstance(settings, dict) else None
        if not isinstance(trials, int):
            place = self._workspace.study_file(self._study)
            raise UsageError(f"{place}: is not the record of a study. Restore it, or start another study.")
        return trials

    def remove_leftovers(self) -> None:
        """Remove unfinished files and `running.json` that a kill left; nobody may be writing."""
        unfinished = self._workspace.study(self._study).rglob(f".*{UNFINISHED}")
        for path in (self._workspace.running_file(self._study), *unfinished):
            _remove(path)

    def remember_trials(self, trials: int) -> None:
        """Record how many models the study will explore; raises as `read_study`."""
        facts = self.read_study()
        settings = {**facts["settings"], "trials": trials}
        write_json(self._workspace.study_file(self._study), {**facts, "settings": settings})

    def read_space(self, name: str) -> str:
        """Return the text of the search space as the study used it. Raises UsageError if it is missing or damaged."""
        path = self._workspace.space_snapshot(self._study, name)
        if not name.isidentifier():  # a damaged plan must not name a file elsewhere
            raise UsageError(f"study '{self._study}': {name!r} is not the name of a search space. Restore its files.")
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise file_error(path, error) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: is not UTF-8 text ({error.reason}). Restore it.") from error

    def start(self, plan: TrialPlan, slot: Slot | None = None) -> int:
        """Write the plan and the slot that trains it; return how many epochs are recorded already.

        Earlier files are removed unless the plan resumes from them. A training that had ended is set aside: the storage
        no longer knows it, for instance because an older copy of the journal was put back.
        """
        folder = self._folder(plan.number, plan.phase)
        if not plan.resumes and plan.phase is not Phase.TEST_EVALUATION and (folder / RESULT).is_file():
            folder.rename(folder.with_name(f"{folder.name}_until_{utc_now().replace(':', '')}"))
        names = (RESULT, WEIGHTS) if plan.resumes else (RESULT, WEIGHTS, EPOCHS, ATTEMPTS, CHECKPOINTS)
        for path in (*folder.glob(f".*{UNFINISHED}"), *(folder / name for name in names)):
            _remove(path)
        record = to_json(plan)
        record["space_text"] = digest(record.pop("space_source"))  # the text is in STUDY/search_spaces
        place = {"slot": slot_facts(slot)} if slot else {}
        write_json(folder / PLAN, {**record, **place, "started_utc": utc_now()})
        epochs, _ = self.measure(plan.number, plan.phase)
        self._epochs[plan.number, plan.phase] = epochs
        return epochs

    def measure(self, number: int, phase: Phase) -> tuple[int, float]:
        """Return how many epochs of the training are recorded, and how many seconds they took."""
        lines = [line for line in read_json_lines(self._folder(number, phase) / EPOCHS) if _is_epoch(line)]
        return max((line["epoch"] for line in lines), default=0), sum(line.get("seconds") or 0.0 for line in lines)

    def record(self, phase: Phase, epoch: EpochRecord) -> None:
        """Append the epoch; one that is trained again after a kill replaces its first record."""
        path = self._folder(epoch.number, phase) / EPOCHS
        if epoch.epoch <= self._epochs.get((epoch.number, phase), 0):
            earlier = [line for line in read_json_lines(path) if _is_epoch(line) and line["epoch"] < epoch.epoch]
            write_text(path, "".join(line_of_json(line) + "\n" for line in earlier))
        self._epochs[epoch.number, phase] = epoch.epoch
        line = {"epoch": epoch.epoch, "seconds": epoch.seconds, "ended_utc": epoch.ended_utc, **epoch.metrics}
        append_line(path, line_of_json(line))

    def add_attempt(self, plan: TrialPlan, attempt: EndedAttempt) -> None:
        """Append how an attempt ended that did not end the training."""
        path = self._folder(plan.number, plan.phase) / ATTEMPTS
        append_line(path, line_of_json({**to_json(attempt), "ended_utc": utc_now()}))

    def ended_attempts(self, plan: TrialPlan) -> list[EndedAttempt]:
        """Return the ended attempts of the plan's trial, including those of earlier runs of the search.

        An attempt that ended with its driver is recorded now, with the time of its epochs.
        """
        ended = self.read_attempts(plan.number, plan.phase)
        if plan.attempt > 1 and (not ended or ended[-1].attempt < plan.attempt - 1):
            epochs, seconds = self.measure(plan.number, plan.phase)
            seconds = max(seconds - sum(attempt.seconds for attempt in ended), 0.0)
            lost = EndedAttempt(plan.attempt - 1, "interrupted", "the search died", epochs, round(seconds, 3))
            self.add_attempt(plan, lost)
            ended.append(lost)
        return ended

    def read_attempts(self, number: int, phase: Phase) -> list[EndedAttempt]:
        """Return the training's attempts followed by another or cut off, without damaged lines."""
        found = []
        for line in read_json_lines(self._folder(number, phase) / ATTEMPTS):
            with contextlib.suppress(ValidationError):
                found.append(_ATTEMPT.validate_python(line))
        return found

    def finish(self, phase: Phase, result: TrialResult, choices: Mapping[str, str] | None = None) -> None:
        """Write how the trial ended and the automatic choices, by topic; remove its checkpoints."""
        record = {**to_json(result), "choices": dict(choices or {}), "ended_utc": utc_now()}
        write_json(self._folder(result.number, phase) / RESULT, record)
        _remove(self._folder(result.number, phase) / CHECKPOINTS)

    def keep_weights(self, phase: Phase, numbers: Collection[int]) -> None:
        """Remove the weights of every ended training of the phase except these numbers."""
        for number in self._workspace.list_trainings(self._study, phase, WEIGHTS):
            if number not in numbers and (self._folder(number, phase) / RESULT).is_file():
                self.remove_weights(phase, number)

    def remove_weights(self, phase: Phase, number: int) -> None:
        (self._folder(number, phase) / WEIGHTS).unlink(missing_ok=True)

    def add_test_evaluation(self, result: TrialResult, source: Phase) -> None:
        """Add one evaluation on the test set, with the weights of that phase; an extended study may have several."""
        reading = {"trial": result.number, "phase": source.value, "read_utc": utc_now(), **to_json(result)["metrics"]}
        write_json(self._workspace.test_evaluation_file(self._study), {"readings": [*self.test_evaluations(), reading]})

    def test_evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations on the test set, oldest first. Raises UsageError if they are damaged."""
        paths = [self._workspace.test_evaluation_file(self._study, name) for name in ("test_evaluation", "verdict")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return []
        readings = read_json(path).get("readings")
        if isinstance(readings, list) and all(isinstance(r, dict) and {"trial", "phase"} <= r.keys() for r in readings):
            return readings
        raise UsageError(f"{path}: holds no readings of the test set. Restore it or remove it.")

    def trial(self, number: int, phase: Phase = Phase.EXPLORATION) -> TrialRecord | None:
        """Return the record of one training, or None if there is none. Raises UsageError if it is damaged."""
        folder = self._folder(number, phase)
        if not (folder / PLAN).is_file():
            return None
        plan = read_json(folder / PLAN, _PLAN_KINDS)
        if {"space", "params"} - plan.keys():
            raise UsageError(f"{folder / PLAN}: is not the plan of a training. Restore it or remove it.")
        result = read_json(folder / RESULT, _RESULT_KINDS) if (folder / RESULT).is_file() else {}
        attempts = tuple(self.read_attempts(number, phase))
        return TrialRecord(number, plan, tuple(read_json_lines(folder / EPOCHS)), result, folder, attempts)

    def trials(self, phase: Phase = Phase.EXPLORATION) -> list[TrialRecord]:
        """Return the records of every training of the phase, by number."""
        numbers = self._workspace.list_trainings(self._study, phase, PLAN)
        return [record for number in numbers if (record := self.trial(number, phase))]

    def weights(self, number: int) -> tuple[Path, Phase] | None:
        """Return the best weights of the trial that were kept, and their phase: the hall of fame first."""
        for phase in (Phase.HALL_OF_FAME, Phase.EXPLORATION):
            record = self.trial(number, phase)
            if record and record.weights and record.result.get("outcome") == Outcome.COMPLETED:
                return record.weights, phase
        return None

    def _folder(self, number: int, phase: Phase) -> Path:
        return self._workspace.trial(self._study, number, phase)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_epoch(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("epoch"), int) and isinstance(line.get("seconds"), _NUMBER)
