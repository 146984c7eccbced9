"""Tells from the files of a study what each of its trainings reached, and which trial leads.

It reads while a search runs, after a kill, and beside damaged files: a training whose record cannot be read is listed
with the reason, and never hides the others. Nothing is written.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import MloptimizerError, unknown_name
from mloptimizer.core.locks import is_held
from mloptimizer.core.nouns import TRAINED_PHASES, Objective, Outcome, Phase
from mloptimizer.core.study_names import check_study_name
from mloptimizer.core.trial_files import PLAN
from mloptimizer.reports.formatting import is_number
from mloptimizer.store.trial_records import MetricsStore, TrialRecord
from mloptimizer.store.workspace import Workspace


@dataclass(frozen=True)
class Standing:
    """What is known about one trial; `damage` says in one line which of its files cannot be read."""

    number: int
    exploration: TrialRecord | None
    hall_of_fame: TrialRecord | None
    damage: str = ""

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan of its exploration, or else of its long training; empty where neither can be read."""
        record = self.exploration or self.hall_of_fame
        return record.plan if record else {}

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of its plan; empty where they cannot be read."""
        params = self.plan.get("params")
        return params if isinstance(params, Mapping) else {}

    def record(self, phase: Phase) -> TrialRecord | None:
        """Return what is known about the trial's training of the phase, or None."""
        return self.hall_of_fame if phase == Phase.HALL_OF_FAME else self.exploration


@dataclass(frozen=True)
class StudyRecord:
    """A study as its files tell it; the standings are sorted by number."""

    name: str
    facts: Mapping[str, Any]
    objective: Objective
    standings: tuple[Standing, ...]
    running: bool  # a search works on it right now
    tested: tuple[int, str] | None = None  # the training that the test set was read with last: trial and phase

    @property
    def is_over(self) -> bool:
        """Whether the search has gone through its phases: the trial that leads has been tested, and is the winner."""
        return self.winner is not None and self.winner == self.tested

    @property
    def leads_as(self) -> str:
        """What the trial that leads is called: the winner, or until it is tested the best so far."""
        return "winner" if self.is_over else "best so far"

    @property
    def winner(self) -> tuple[int, Phase] | None:
        """The best completed hall-of-fame training, or else the best completed exploration."""
        for phase in reversed(TRAINED_PHASES):
            best: tuple[float, int] | None = None
            for standing in self.standings:
                value = completed_value(standing.record(phase))
                if value is not None and self.objective.is_better(value, best[0] if best else None):
                    best = (value, standing.number)
            if best:
                return best[1], phase
        return None

    def state(self, record: TrialRecord | None) -> str:
        """Return how the training stands: completed, pruned, failed, running, unfinished, or empty without one."""
        if record is None:
            return ""
        if record.result:
            return str(record.result.get("outcome", "ended"))
        return "running" if self.running else "unfinished"


def list_recorded_studies(workspace: Workspace) -> list[str]:
    """Return the names of the studies in the workspace, sorted."""
    return sorted(path.parent.name for path in workspace.metrics.glob("*/study.json"))


def find_study(workspace: Workspace, name: str, place: str = "STUDY") -> str:
    """Return the name if there is such a study in the workspace.

    Raises:
        UsageError: there is none, with the nearest name and all of them.
    """
    names = list_recorded_studies(workspace)
    if name not in names:
        raise unknown_name(place, "study", name, names)
    return check_study_name(name)


def find_winner(workspace: Workspace, study: str) -> tuple[int, Phase] | None:
    """Return the number of the study's winner and the training that makes it so; None before anything is completed.

    The winner is the best of the hall of fame by the study's objective; while no long training is completed, the best
    of the exploration. Of equal ones the first leads.
    """
    return read_study_record(workspace, study).winner


def read_study_record(workspace: Workspace, study: str) -> StudyRecord:
    """Return what the files of the study tell.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    store = MetricsStore(workspace, find_study(workspace, study))
    facts = store.read_study()
    settings = facts.get("settings")
    default = Settings.model_fields["objective"].default
    objective = Objective(str(settings.get("objective", default)) if isinstance(settings, Mapping) else default)
    numbers = {number for phase in TRAINED_PHASES for number in workspace.list_trainings(study, phase, PLAN)}
    standings = tuple(_read_standing(store, number) for number in sorted(numbers))
    tested = None
    with suppress(MloptimizerError):  # damaged: `show` says so
        tested = next(((last["trial"], last["phase"]) for last in reversed(store.test_evaluations())), None)
    return StudyRecord(study, facts, objective, standings, is_search_running(workspace, study), tested)


def _read_standing(store: MetricsStore, number: int) -> Standing:
    records: dict[Phase, TrialRecord | None] = {}
    damage = []
    for phase in TRAINED_PHASES:
        try:
            records[phase] = store.trial(number, phase)
        except MloptimizerError as error:
            damage.append(str(error))
    return Standing(number, records.get(Phase.EXPLORATION), records.get(Phase.HALL_OF_FAME), " ".join(damage))


def completed_value(record: TrialRecord | None) -> float | None:
    """Return the objective that the training reached, None unless it is completed."""
    if record is None or record.result.get("outcome") != Outcome.COMPLETED:
        return None
    value = record.result.get("value")
    return float(value) if is_number(value) else None


def best_value(record: TrialRecord | None, objective: Objective) -> float | None:
    """Return the best objective that the training showed so far, whether or not it ended well."""
    if record is None:
        return None
    if (value := completed_value(record)) is not None:
        return value
    best: float | None = None
    for epoch in record.epochs:
        seen = epoch.get(objective.metric)
        if is_number(seen) and objective.is_better(seen, best):
            best = float(seen)
    return best


def epochs_trained(record: TrialRecord | None) -> int | None:
    """Return how many epochs the training has behind it; None without one."""
    if record is None:
        return None
    numbers = (epoch.get("epoch") for epoch in record.epochs)
    return sum(1 for number in numbers if is_number(number) and number > 0)


def attempts_made(record: TrialRecord | None) -> int:
    """Return how often the training was started; 0 without one."""
    attempt = record.plan.get("attempt", 1) if record else 0
    return attempt if isinstance(attempt, int) else 1


def micro_batch(record: TrialRecord | None) -> int | None:
    """Return how many images a GPU took at a time, None where that was not recorded."""
    size = record.result.get("micro_batch") if record else None
    return size if isinstance(size, int) and size > 0 else None


def is_search_running(workspace: Workspace, study: str) -> bool:
    """Return whether a driver holds the study's lock."""
    return is_held(workspace.driver_lock(study))
