"""Reads from the files of a study what each of its trainings reached, and which trial leads.

It works while a search runs, after a kill and with damaged files: a training whose record cannot be read is listed with
the reason, and never hides the others. Nothing is written.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import MloptimizerError, unknown_name
from mloptimizer.core.locks import is_held
from mloptimizer.core.nouns import TRAINED_PHASES, Objective, Outcome, Phase
from mloptimizer.core.study_names import check_study_name
from mloptimizer.core.trial_files import PLAN
from mloptimizer.reports.formatting import is_number
from mloptimizer.store.metrics_store import MetricsStore, TrialRecord
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
        """The plan of its exploration, or else of its hall-of-fame training; empty where neither can be read."""
        record = self.exploration or self.hall_of_fame
        return record.plan if record else {}

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of its plan; empty where they cannot be read."""
        return self.plan.get("params", {})

    def record(self, phase: Phase) -> TrialRecord | None:
        """Return what is known about the trial's training of the phase, or None."""
        return self.hall_of_fame if phase == Phase.HALL_OF_FAME else self.exploration

    @property
    def trainings(self) -> list[TrialRecord]:
        """What is known about its trainings, in the order of the phases."""
        return [record for record in (self.exploration, self.hall_of_fame) if record]


@dataclass(frozen=True)
class StudyRecord:
    """A study as its files describe it; the standings are sorted by number."""

    name: str
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]  # empty where they cannot be read
    objective: Objective
    standings: tuple[Standing, ...]
    running: bool  # a search works on it right now
    tested: tuple[int, str] | None = None  # trial and phase of the last test evaluation

    @property
    def is_over(self) -> bool:
        """Whether the search has finished all its phases: the leading trial has been tested, and is the winner."""
        return self.winner is not None and self.winner == self.tested

    @property
    def leads_as(self) -> str:
        """What the leading trial is called: the winner, or the best so far until it has been tested."""
        return "winner" if self.is_over else "best so far"

    @property
    def winner(self) -> tuple[int, Phase] | None:
        """The best completed hall-of-fame training, or else the best completed exploration; the first of equals."""
        sign = 1 if self.objective.maximize else -1
        for phase in reversed(TRAINED_PHASES):
            values = ((completed_value(standing.record(phase)), standing.number) for standing in self.standings)
            if known := [(sign * value, number) for value, number in values if value is not None]:
                return max(known, key=itemgetter(0))[1], phase
        return None

    def standing(self, number: int) -> Standing | None:
        """Return what is known about the trial; None where there is no such trial."""
        return next((standing for standing in self.standings if standing.number == number), None)

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


def read_study_record(workspace: Workspace, study: str) -> StudyRecord:
    """Return what the files of the study say.

    Raises:
        UsageError: there is no such study, or its `study.json` is damaged.
    """
    store = MetricsStore(workspace, find_study(workspace, study))
    facts = store.read_study()
    stated = facts.get("settings")
    settings = stated if isinstance(stated, Mapping) else {}
    objective = Objective(str(settings.get("objective", Settings.model_fields["objective"].default)))
    numbers = {number for phase in TRAINED_PHASES for number in workspace.list_trainings(study, phase, PLAN)}
    standings = tuple(_read_standing(store, number) for number in sorted(numbers))
    tested = None
    with suppress(MloptimizerError):  # damaged: `show` says so
        tested = next(((last["trial"], last["phase"]) for last in reversed(store.test_evaluations())), None)
    return StudyRecord(study, facts, settings, objective, standings, is_search_running(workspace, study), tested)


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
    value = record.result.get("value") if record and record.result.get("outcome") == Outcome.COMPLETED else None
    return float(value) if is_number(value) else None


def best_value(record: TrialRecord | None, objective: Objective) -> float | None:
    """Return the objective that the training reached, or the best of its epochs where it is not completed."""
    if (value := completed_value(record)) is not None or record is None:
        return value
    values = [float(seen) for epoch in record.epochs if is_number(seen := epoch.get(objective.metric))]
    return (max if objective.maximize else min)(values, default=None)


def epochs_trained(record: TrialRecord | None) -> int | None:
    """Return how many epochs the training has completed; None without one."""
    numbers = [epoch.get("epoch") for epoch in record.epochs] if record else []
    return sum(is_number(number) and number > 0 for number in numbers) if record else None


def attempts_made(record: TrialRecord | None) -> int:
    """Return how many attempts at the training have started; 0 without one."""
    attempt = record.plan.get("attempt", 1) if record else 0
    return attempt if isinstance(attempt, int) else 1


def micro_batch(record: TrialRecord | None) -> int | None:
    """Return the training's images per GPU and pass, None where that was not recorded."""
    size = record.result.get("micro_batch") if record else None
    return size if isinstance(size, int) and size > 0 else None


def is_search_running(workspace: Workspace, study: str) -> bool:
    """Return whether a driver holds the study's lock."""
    return is_held(workspace.driver_lock(study))
