"""Runs searches of lines: real study, files and loop; training is a stand-in of a few lines in a thread."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mloptimizer.app.assembly import SearchParts, assemble
from mloptimizer.app.engine_choice import Machines
from mloptimizer.app.search_request import SearchRequest
from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, Emit, EndedAttempt, EpochRecord, HardwareSample, RunTrial, ShouldStop
from mloptimizer.core.files import write_text
from mloptimizer.core.listener import Listener, Progress
from mloptimizer.core.nouns import DatasetInfo, Outcome, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import WEIGHTS
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.search.phase_order import SearchSummary, run_search
from mloptimizer.search.search_run import SearchRun
from mloptimizer.store.workspace import Workspace

Search = Callable[..., tuple[SearchSummary, "Watcher"]]

LINE = '''"""A line: the value grows towards x."""


def sample(trial, dataset):
    return {"x": trial.suggest_float("x", 0.0, 1.0)}


def build(params, dataset):
    raise NotImplementedError("the stand-in does not build")
'''


def train(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Reach the parameter x, half of the rest in every epoch; long trainings reach a little more."""
    x = float(plan.params["x"]) + (0.1 if plan.phase is Phase.HALL_OF_FAME else 0.0)
    value = 0.0
    for epoch in range(1, plan.epochs + 1):
        value = x * (1 - 0.5**epoch)
        emit(EpochRecord(plan.number, epoch, {"val_accuracy": value, "loss": 1 - value}, 0.1))
    emit(HardwareSample(plan.number, {"time_utc": "t", "seconds": 0.5}))
    emit(Decision(plan.number, "precision", "float32", "no GPU"))
    metrics = {"test_accuracy": x} if plan.phase is Phase.TEST_EVALUATION else {"val_accuracy": value}
    weights = Path(plan.directory) / WEIGHTS
    if plan.phase is not Phase.TEST_EVALUATION:
        weights.write_text(f"{plan.phase} of {plan.number} from {plan.initial_weights}")
    return TrialResult(plan.number, Outcome.COMPLETED, x if plan.epochs == 0 else value, 0.1, metrics)


class Watcher(Listener):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.started: list[TrialPlan] = []
        self.again: list[str] = []
        self.ended: list[tuple[Phase, TrialResult]] = []
        self.notices: list[str] = []

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        self.started.append(plan)

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        if reason:
            self.again.append(f"trial {plan.number}: {reason}")

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        self.ended.append((plan.phase, result))

    def notice(self, line: str) -> None:
        self.notices.append(line)


class Interrupt:
    """Interrupts at the given use."""

    def __init__(self, use: int) -> None:
        self.left = use

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        yield


def run_small_search(
    workspace: Workspace,
    dataset: DatasetInfo,
    run_trial: RunTrial = train,
    *,
    explore_only: bool = False,
    source: str = LINE,
    slots: int | Sequence[Slot] = 1,
    new_engine: Callable[[SearchRun, int, Phase], Engine] | None = None,
    memory_percent: Callable[[], float] = lambda: 50.0,
    watcher: Watcher | None = None,
    profile_trial: int | None = None,
    warm_start: str = "",
    **changes: Any,
) -> tuple[SearchSummary, "Watcher"]:
    """Run a search named "s" on these slots, or on so many; run again, it continues.

    Args:
        changes: of `SearchParts`, by their names, and of the settings.
    """
    write_text(workspace.search_spaces / "line.py", source)
    places = [Slot(str(index)) for index in range(slots)] if isinstance(slots, int) else slots

    def make_engine(run: SearchRun, trials: int, phase: Phase) -> Engine:
        return new_engine(run, trials, phase) if new_engine else ThreadEngine(places, run_trial)

    stated = {name: value for name, value in changes.items() if name in Settings.model_fields}
    settings = {"trials": 6, "pruner": "none", "exploration_epochs": 3, "hall_of_fame_epochs": 5, "spaces": "line"}
    is_new = not workspace.study_file("s").exists()
    request = SearchRequest(
        workspace,
        dataset="digits" if is_new else None,
        study="s",
        assignments={**settings, **({"seed": 1} if is_new else {}), **stated},
        explore_only=explore_only,
        profile_trial=profile_trial,
        warm_start=warm_start,
    )
    watcher = watcher or Watcher()
    others = {
        "listeners": (watcher,),
        "prepare_dataset": lambda *asked: dataset,
        "open_machines": lambda *asked: contextlib.nullcontext(Machines(make_engine, memory_percent)),
        "free_disk_mb": lambda workspace: 1e6,
        **{part.name: changes[part.name] for part in fields(SearchParts) if part.name in changes},
    }
    with assemble(request, **others) as run:
        return run_search(run), watcher
