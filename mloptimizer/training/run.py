"""A running trial, as its training reports it: decisions, epochs, signs of life, and where the time went."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.core.events import Decision, Emit, EpochRecord, MicroBatching, ShouldStop, SignOfLife
from mloptimizer.core.nouns import Outcome, TrialPlan, TrialResult
from mloptimizer.core.words import utc_stamp
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.checkpoints.checkpoint_files import PartState
from mloptimizer.training.memory.batch_plan import BatchPlan

_LOGGED_AS = {"fit": "first_step"}  # in the hardware log, until the callbacks name the next part


@dataclass
class Run:
    """A running trial: its plan, who receives its events, and how long its parts took."""

    plan: TrialPlan
    emit: Emit
    should_stop: ShouldStop
    started: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)
    epochs_done: int = 0
    history: list[EpochRecord] = field(default_factory=list)  # including those before a checkpoint
    batch: BatchPlan | None = None
    memory_mb: float = 0.0
    clock: TrainingClock = field(default_factory=TrainingClock)

    def decide(self, topic: str, choice: str, reason: str) -> None:
        """Emit an automatic choice."""
        self.emit(Decision(self.plan.number, topic, choice, reason))

    def divide(self, batch: BatchPlan, memory_mb: float) -> None:
        """Emit the micro-batches of a step and its estimated memory, MB."""
        self.batch, self.memory_mb = batch, memory_mb
        self.emit(MicroBatching(self.plan.number, batch.micro_batch, batch.accumulation_steps, memory_mb))

    def add_epoch(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> EpochRecord:
        """Keep and return the record of an epoch that has just ended."""
        self.epochs_done = epoch
        self.history.append(EpochRecord(self.plan.number, epoch, metrics, seconds, utc_stamp()))
        return self.history[-1]

    def get_state(self) -> PartState:
        """Return the epochs so far: the driver may have died before it heard of the last ones."""
        return {"records": {str(r.epoch): {**r.metrics, "seconds": r.seconds} for r in self.history}}, ()

    def set_state(self, state: PartState) -> None:
        """Take over the epochs, and emit those that nobody has recorded."""
        self.history = []
        for epoch, row in enumerate(state[0]["records"].values(), start=1):
            metrics = {name: value for name, value in row.items() if name != "seconds"}
            self.history.append(EpochRecord(self.plan.number, epoch, metrics, row.get("seconds") or 0.0))
        for record in self.history[self.plan.recorded_epochs :]:
            self.emit(record)

    def sign(self, step: int) -> None:
        """Emit that the training is running."""
        self.emit(SignOfLife(self.plan.number, step))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block, for the result's timings and for the hardware log."""
        started = time.perf_counter()
        try:
            with self.clock.during(_LOGGED_AS.get(name, name)):
                yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - started

    def result(self, outcome: Outcome, value: float | None = None, **more: Any) -> TrialResult:
        """Return how the trial ended, with its timings and its micro-batches."""
        seconds = time.perf_counter() - self.started
        spent = self.clock.spent()[1]
        timings = {**self.timings, "training": spent["training"], "validation": spent["validation"], "total": seconds}
        if self.batch:
            more |= {"micro_batch": self.batch.micro_batch, "accumulation_steps": self.batch.accumulation_steps}
        more["memory_mb"] = self.memory_mb
        return TrialResult(self.plan.number, outcome, value, seconds, timings=timings, **more)
