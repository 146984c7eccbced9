"""A trial under way, as its training tells of it: decisions, epochs, signs of life, and where its time went."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.core.events import Decision, Emit, EpochRecord, MicroBatching, ShouldStop, SignOfLife
from mloptimizer.core.nouns import Outcome, TrialPlan, TrialResult
from mloptimizer.core.words import utc_stamp
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.checkpoints.checkpoint_files import Kept
from mloptimizer.training.memory.batch_plan import BatchPlan

_BEGINS_WITH = {"fit": "first_step"}  # the parts of the hardware log that are named otherwise; callbacks tell the next


@dataclass
class Run:
    """A trial under way: its plan, whom to tell, and how long its parts took."""

    plan: TrialPlan
    emit: Emit
    should_stop: ShouldStop
    started: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)
    epochs_done: int = 0
    history: list[EpochRecord] = field(default_factory=list)  # with those before a checkpoint
    batch: BatchPlan | None = None
    memory_mb: float = 0.0
    clock: TrainingClock = field(default_factory=TrainingClock)

    def decide(self, topic: str, choice: str, reason: str) -> None:
        """Tell an automatic choice."""
        self.emit(Decision(self.plan.number, topic, choice, reason))

    def divide(self, batch: BatchPlan, memory_mb: float) -> None:
        """Tell how a step is divided, and how much memory it is estimated to take, MB."""
        self.batch, self.memory_mb = batch, memory_mb
        self.emit(MicroBatching(self.plan.number, batch.micro_batch, batch.accumulation_steps, memory_mb))

    def add_epoch(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> EpochRecord:
        """Return the record of an epoch that has just ended, which is kept with the others."""
        self.epochs_done = epoch
        self.history.append(EpochRecord(self.plan.number, epoch, metrics, seconds, utc_stamp()))
        return self.history[-1]

    def kept(self) -> Kept:
        """Return the epochs so far: with a `Checkpoint`, those are known that the driver did not live to hear of."""
        return {"records": {str(r.epoch): {**r.metrics, "seconds": r.seconds} for r in self.history}}, ()

    def take_back(self, kept: Kept) -> None:
        """Know the epochs again, and tell those that nobody has recorded."""
        self.history = []
        for epoch, row in enumerate(kept[0]["records"].values(), start=1):
            metrics = {name: value for name, value in row.items() if name != "seconds"}
            self.history.append(EpochRecord(self.plan.number, epoch, metrics, row.get("seconds") or 0.0))
        for record in self.history[self.plan.recorded_epochs :]:
            self.emit(record)

    def sign(self, step: int) -> None:
        """Tell that the training goes on."""
        self.emit(SignOfLife(self.plan.number, step))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block, for the result's timings and for the hardware log."""
        begun = time.perf_counter()
        try:
            with self.clock.during(_BEGINS_WITH.get(name, name)):
                yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begun

    def result(self, outcome: Outcome, value: float | None = None, **more: Any) -> TrialResult:
        """Return how the trial ended, with its timings and the division of its steps."""
        seconds = time.perf_counter() - self.started
        spent = self.clock.spent()[1]
        timings = {**self.timings, "training": spent["training"], "validation": spent["validation"], "total": seconds}
        if self.batch:
            more |= {"micro_batch": self.batch.micro_batch, "accumulation_steps": self.batch.accumulation_steps}
        more["memory_mb"] = self.memory_mb
        return TrialResult(self.plan.number, outcome, value, seconds, timings=timings, **more)
