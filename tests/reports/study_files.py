"""Writes the files of small studies, as a search does, and turns reports into text."""

import io
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType

from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Outcome, Phase, TrialPlan, TrialResult, to_json
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

MakePlan = Callable[..., TrialPlan]
TIMINGS = {"fit": 2.5, "first_step": 1.5, "checkpoint": 0.5}  # s


class StudyWriter:
    """Writes the study 'test' of a workspace."""

    def __init__(self, workspace: Workspace, make_plan: MakePlan, **settings: object) -> None:
        self.store = MetricsStore(workspace, "test")
        self._make_plan = make_plan
        plan = make_plan(0)
        stated = {**plan.settings.model_dump(mode="json"), **settings}
        stated.pop("storage")
        facts = {"study": "test", "seed": 7, "settings": stated, "storage": "", "dataset": to_json(plan.dataset)}
        self.store.write_study(facts, {})

    def train(self, number: int, values: Sequence[float], phase: Phase = Phase.EXPLORATION, **plan: object) -> None:
        """Write a running training: its plan, and an epoch for each validation accuracy."""
        self.store.start(self._make_plan(number, phase=phase, **plan))
        for epoch, value in enumerate(values, start=1):
            metrics = {"loss": 0.5, "accuracy": 0.75, "val_loss": 1 - value, "val_accuracy": value}
            self.store.record(phase, EpochRecord(number, epoch, metrics, 1.5))

    def plan(self, number: int) -> TrialPlan:
        """Return the plan of an exploration trial."""
        return self._make_plan(number)

    def complete(self, number: int, value: float, phase: Phase = Phase.EXPLORATION, **plan: object) -> None:
        """Write a completed training whose best epoch had the value."""
        self.train(number, [value / 2, value], phase, **plan)
        metrics = {"val_accuracy": value, "val_loss": 1 - value}
        self.end(TrialResult(number, Outcome.COMPLETED, value, 3.0, metrics, TIMINGS), phase)

    def end(self, result: TrialResult, phase: Phase = Phase.EXPLORATION) -> None:
        """Write how the training ended."""
        self.store.finish(phase, result)


def text_of(renderable: RenderableType, width: int = 100) -> str:
    """Return what a terminal of the width shows."""
    file = io.StringIO()
    Console(width=width, file=file).print(renderable)
    return file.getvalue()
