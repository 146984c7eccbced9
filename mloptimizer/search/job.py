"""What one search is about, and what its phases are to the loop that runs them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import TRAINED_PHASES, DatasetInfo, Objective, Params, Phase, TrialPlan, TrialResult
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.study import Study
from mloptimizer.study.tally import Ended


@dataclass
class Goal:
    """How many models are to be explored; a person may raise it while the search runs."""

    trials: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all phases of one search share."""

    name: str  # of the study
    study: Study
    spaces: Mapping[str, SearchSpace]  # those to propose from; earlier runs may have used others
    dataset: DatasetInfo
    settings: Settings
    seed: int
    workspace: Workspace
    store: MetricsStore
    goal: Goal
    profile_trial: int | None = None  # number of the exploration trial to profile
    tuned: tuple[str, ...] = ()  # names of the settings that tuning chose

    @property
    def objective(self) -> Objective:
        return Objective(self.settings.objective)

    def best(self, phase: Phase) -> tuple[int, float] | None:
        """Return number and value of the phase's best trial, or None."""
        best = self.study.best(1, phase) if phase in TRAINED_PHASES else []
        return (best[0].number, best[0].value) if best and best[0].value is not None else None

    def plan(self, number: int, phase: Phase, space: str, params: Params, **training: Any) -> TrialPlan:
        """Return the plan; its seed depends on the study's seed and the trial's number alone.

        Args:
            training: other fields of the plan: epochs, patience, initial weights.
        """
        return TrialPlan(
            study=self.name,
            number=number,
            phase=phase,
            space=space,
            space_source=self.spaces[space].source if space in self.spaces else self.store.read_space(space),
            params=params,
            dataset=self.dataset,
            seed=random.Random(f"{self.seed}:{number}").randrange(2**31),
            directory=str(self.workspace.trial(self.name, number, phase).resolve()),
            cache_directory=str(self.workspace.cache(self.name).resolve()),
            profiled=phase is Phase.EXPLORATION and number == self.profile_trial,
            settings=self.settings.model_copy(update={"storage": ""}),  # workers need no database, and no password
            tuned=self.tuned,
            **{"epochs": 0, "patience": 0, **training},
        )


@dataclass(frozen=True)
class Untrained:
    """A trial that ended when it was proposed: its space could not be sampled, or its configuration was known."""

    plan: TrialPlan
    result: TrialResult


class PhaseRun(Protocol):
    """One phase of a search: the loop asks it for plans and passes it epochs and results."""

    phase: Phase

    def next_plan(self) -> TrialPlan | Untrained | None:
        """Return what to train next, or a trial that has ended already; None: nothing at the moment."""

    def suspend(self, number: int) -> None:
        """Let a trial that was cut off wait for the next run."""

    def report(self, record: EpochRecord) -> bool:
        """Report an epoch's metrics; return whether the trial is to be pruned."""

    def finish(self, result: TrialResult) -> None:
        """Report a trial's result."""

    def total(self) -> int:
        """Return how many trials the phase has in all."""

    def ended(self) -> Ended:
        """Return the outcomes of its ended trials, including those of earlier runs."""
