"""Runs searches of lines: real study, files and loop; training is a stand-in of a few lines in a thread."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.listener import Progress
from mloptimizer.core.nouns import (
    DatasetInfo,
    Decision,
    Emit,
    EpochRecord,
    HardwareSample,
    Objective,
    Outcome,
    Phase,
    RunTrial,
    ShouldStop,
    Slot,
    TrialPlan,
    TrialResult,
)
from mloptimizer.core.trial_files import WEIGHTS
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.gpu_memory import ReadUse
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.search.budgets import Budgets, folder_mb
from mloptimizer.search.control import Control, SearchRun
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.job import Goal, Job
from mloptimizer.search.search_run import SearchSummary, run_search
from mloptimizer.spaces.space_files import load_space
from mloptimizer.store.recorder import Recorder
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.study import open_study

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
    metrics = {"test_accuracy": x} if plan.phase is Phase.VERDICT else {"val_accuracy": value}
    weights = Path(plan.directory) / WEIGHTS
    if plan.phase is not Phase.VERDICT:
        weights.write_text(f"{plan.phase} of {plan.number} from {plan.initial_weights}")
    return TrialResult(plan.number, Outcome.COMPLETED, x if plan.epochs == 0 else value, 0.1, metrics)


class Watcher:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.started: list[TrialPlan] = []
        self.again: list[str] = []
        self.ended: list[tuple[Phase, TrialResult]] = []
        self.notices: list[str] = []

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)

    def trial_started(self, plan: TrialPlan) -> None:
        self.started.append(plan)

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None: ...

    def attempt_ended(self, plan: TrialPlan, reason: str) -> None:
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
    interruptible: Any = contextlib.nullcontext,
    source: str = LINE,
    slots: int | Sequence[Slot] = 1,
    new_engine: Callable[[SearchRun, int, Phase], Engine] | None = None,
    read_gpus: ReadUse | None = None,
    memory_percent: Callable[[], float] = lambda: 50.0,
    free_disk_mb: Callable[[], float] = lambda: 1e6,
    clock: Callable[[], float] = time.monotonic,
    watcher: Watcher | None = None,
    profile_trial: int | None = None,
    **changes: Any,
) -> tuple[SearchSummary, "Watcher"]:
    """Run a search named "s" on these slots, or on so many; run again, it continues."""
    settings = Settings(**{"trials": 6, "pruner": "none", "exploration_epochs": 3, "hall_of_fame_epochs": 5, **changes})
    study = open_study("", workspace.journal, "s", settings, 1, Objective(settings.objective))
    store, watcher = MetricsStore(workspace, "s"), watcher or Watcher()
    store.write_study({"settings": {"objective": settings.objective, "trials": settings.trials}}, {"line": source})
    spaces = {"line": load_space("line", source, "line.py")}
    goal = Goal(settings.trials)
    job = Job("s", study, spaces, dataset, settings, 1, workspace, store, goal, profile_trial)
    places = [Slot(str(index)) for index in range(slots)] if isinstance(slots, int) else slots

    def make_engine(trials: int, phase: Phase) -> Engine:
        return new_engine(run, trials, phase) if new_engine else ThreadEngine(places, run_trial)

    budgets = Budgets(settings, clock, lambda: folder_mb(*workspace.folders("s")))
    disk = DiskWatch(workspace.metrics, free_disk_mb, settings.min_free_disk_mb)
    control = Control(job, budgets, disk, store.remember_trials)
    run = SearchRun(job, make_engine, Recorder(workspace, "s", store), watcher, control, interruptible)
    run.memory_percent, run.clock, run.read_gpus = memory_percent, clock, read_gpus
    return run_search(run, explore_only), watcher
