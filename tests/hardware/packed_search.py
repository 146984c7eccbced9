"""A search on the stand-in for NVML: real processes and hardware logs; a training counts steps, and sleeps."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Emit, EndedAttempt, EpochRecord, HardwareSample, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.engines.slots import plan_slots
from mloptimizer.hardware.read.monitor import Monitor
from mloptimizer.hardware.read.nvml import list_gpus
from mloptimizer.hardware.read.reader import HardwareReader
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.store.workspace import Workspace
from tests.hardware.nvml.stand_in import MB
from tests.small_searches import Watcher, run_small_search

STEP_SECONDS, STEPS = 0.02, 8  # of an epoch
ROW_SECONDS = 0.1
TRIAL_MB = 3000  # that each trial takes of the GPU from its first epoch on


def train(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Train until the search's folder says that it is enough, so many times slower as it says."""
    folder, clock, made = Path(plan.directory).parents[2], TrainingClock(), [0]
    reader = HardwareReader(slot.gpu_ids, os.getpid(), clock)
    clock.follow(100, lambda: (made[0], 0.0))
    with Monitor(reader, ROW_SECONDS, lambda row: emit(HardwareSample(plan.number, row))):
        epoch = 0
        while epoch < 2 or not (folder / "enough").exists():
            epoch = clock.epoch = epoch + 1
            with clock.during("training"):
                for _ in range(STEPS):
                    if should_stop():
                        return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)
                    time.sleep(STEP_SECONDS * float((folder / "slowdown").read_text()))
                    made[0] += 1
            if epoch <= plan.epochs:
                emit(EpochRecord(plan.number, epoch, {"val_accuracy": 0.5, "pid": float(os.getpid())}, 0.1))
    return TrialResult(plan.number, Outcome.COMPLETED, 0.5, 0.1, {"val_accuracy": 0.5})


class Gpu(Watcher):
    """Lets the stand-in report what the running trials take, and ends them when `is_enough` says so."""

    def __init__(
        self,
        workspace: Workspace,
        set_values: Callable[..., None],
        slowdown: float,
        is_enough: Callable[["Gpu"], bool],
    ) -> None:
        super().__init__()
        self.workspace, self.most = workspace, 0
        self._set_values, self._slowdown, self._is_enough = set_values, slowdown, is_enough
        self._running: set[int] = set()
        self._pids: dict[int, int] = {}  # of those that have their memory
        self._write()

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        super().trial_started(plan, slot)
        self._running.add(plan.number)
        self.most = max(self.most, len(self._running))
        self._write()

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        if plan.number not in self._pids:
            self._pids[plan.number] = int(record.metrics["pid"])
            self._write()

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        super().attempt_ended(plan, attempt, reason)
        self._end(plan)

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        super().trial_ended(plan, result)
        self._end(plan)

    def progress(self, progress: object) -> None:
        if self._is_enough(self):
            (self.workspace.root / "enough").touch()

    def _end(self, plan: TrialPlan) -> None:
        self._running.discard(plan.number)
        self._pids.pop(plan.number, None)
        self._write()

    def _write(self) -> None:
        fresh = self.workspace.root / "slowdown.new"
        fresh.write_text(str(self._slowdown if len(self._running) > 1 else 1.0))
        fresh.replace(self.workspace.root / "slowdown")
        self._set_values(
            gpu__memory_used=(500 + TRIAL_MB * len(self._pids)) * MB,
            gpu__utilization=30 * len(self._running),
            gpu__0__processes=" ".join(f"{pid}:{TRIAL_MB * MB}" for pid in self._pids.values()) or None,
        )

    def log(self) -> str:
        """Return the choices so far that are about sharing."""
        path = self.workspace.strategy_log
        return (
            "\n".join(line for line in path.read_text().splitlines() if "trials per GPU" in line)
            if path.is_file()
            else ""
        )

    def rows(self) -> list[str]:
        """Return the lines of the first trial's hardware log."""
        path = self.workspace.hardware_log("s", 0)
        return path.read_text().splitlines() if path.is_file() else []


def run(set_values: Callable[..., None], slowdown: float, is_enough: Callable[[Gpu], bool]) -> dict[str, Any]:
    """Search with three trials on one GPU, and return what happened.

    Args:
        slowdown: times that a step takes longer while two trials run.
        is_enough: says when the trials may end.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        facts = ("squares", "classification", (8, 8, 1), 10, tuple("0123456789"), 800, 200, 100, (80.0,), (60.0,))
        dataset = DatasetInfo(*facts, "f" * 64, folder, 0, 0.2, 0)
        settings = {"trials_per_gpu": "auto", "trials": 3, "min_free_disk_mb": 0}
        slots, _ = plan_slots(list_gpus(), [0, 1], 8000, 3, Settings(**settings))
        gpu = Gpu(workspace, set_values, slowdown, is_enough)
        run_small_search(
            workspace,
            dataset,
            train,
            new_engine=lambda run, trials, phase: ProcessEngine(slots[:2], train, preload=(__name__,)),
            watcher=gpu,
            explore_only=True,
            exploration_epochs=2,
            **settings,
        )
        return {
            "slots": [slot.name for slot in slots],
            "ended": sorted(result.number for _, result in gpu.ended),
            "outcomes": sorted({str(result.outcome) for _, result in gpu.ended}),
            "again": gpu.again,
            "most": gpu.most,
            "log": gpu.log(),
            "rows": gpu.rows(),
        }
