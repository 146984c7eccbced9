"""A machine whose trainings are a few lines: how fast each is follows from its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Emit, EpochRecord, HardwareSample, RunTrial, ShouldStop
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.tuning.measurement import Machine

Gains = Mapping[tuple[str, object], float]
"""By setting and value: how many times faster a training is with it."""


@dataclass
class Pretence:
    """Trains at 1,000 images per second, times the gains of its settings; remembers what it was asked to train."""

    gains: Gains = field(default_factory=dict)
    startup_seconds: Mapping[tuple[str, object], float] = field(default_factory=dict)
    broken: frozenset[tuple[str, object]] = frozenset()  # out of memory with any of these
    lucky: int = 1000  # trainings after which the gains are gone
    seen: list[Settings] = field(default_factory=list)

    def _speed(self, settings: Settings) -> float:
        speed = 1000.0
        for (name, value), gain in self.gains.items() if len(self.seen) <= self.lucky else ():
            speed *= gain if getattr(settings, name) == value else 1.0
        return speed

    def train(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        self.seen.append(plan.settings)
        if any(getattr(plan.settings, name) == value for name, value in self.broken):
            return failed(plan.number, FailureKind.OUT_OF_MEMORY, "too large; see worker.log in the trial's folder")
        startup = 1.0 + sum(s for (name, v), s in self.startup_seconds.items() if getattr(plan.settings, name) == v)
        speed, fit = self._speed(plan.settings), 0.0
        for epoch in range(1, plan.epochs + 1):
            seconds = 2.0 + (startup if epoch == 1 else 0.0)
            fit += seconds
            emit(HardwareSample(plan.number, {"process_rss_mb": 100.0 + epoch, "process_cpu_percent": 50.0 * epoch}))
            metrics = {"val_accuracy": 0.3 * epoch, "images_per_second": speed if epoch > 1 else 1.0}
            emit(EpochRecord(plan.number, epoch, metrics, seconds))
        timings = {"setup": 0.5, "build": 0.5, "fit": fit}
        return TrialResult(plan.number, Outcome.COMPLETED, 0.9, fit + 1.0, timings=timings)

    def machine(self, *gpus: Gpu) -> Machine:
        return make_machine(self.train, *gpus)


def make_machine(run_trial: RunTrial, *gpus: Gpu) -> Machine:
    """Return a machine with one slot, on which this function trains."""
    slot = Slot("one")
    return Machine(gpus, "a processor", 2, lambda settings: slot, lambda settings: ThreadEngine([slot], run_trial))


def make_gpu(capability: tuple[int, int] | None, **changes: Any) -> Gpu:
    """Return a GPU of which only the compute capability matters."""
    facts = {"index": 0, "uuid": "GPU-1", "name": "a GPU", "memory_mb": 8000, "driver": "1", "mig": None}
    return Gpu(**{**facts, "compute_capability": capability, **changes})
