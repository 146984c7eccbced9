"""Follows a training: records every epoch, keeps the best weights, lowers the learning rate, and stops it in time."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.core.events import ShouldStop
from mloptimizer.core.nouns import Objective
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.checkpoints.checkpoint_files import PartState
from mloptimizer.training.memory.estimate import relieve_memory
from mloptimizer.training.step.optimizers import flat_optimizer
from mloptimizer.training.step.schedule import Plateau
from mloptimizer.training.trial_failures import TrialStopped

SECONDS_BETWEEN_SIGNS = 1.0
SECONDS_BETWEEN_RELIEFS = 30.0  # collecting takes some tenths of a second
FIRST_PROFILED_STEP, LAST_PROFILED_STEP = 10, 20  # counted from 1

EmitEpoch = Callable[[int, Mapping[str, float], float], None]
"""Takes the epoch (from 1), its metrics and its seconds."""


class Best:
    """The best state of a network so far, in host memory."""

    def __init__(self, network: Any, objective: Objective) -> None:
        self.value: float | None = None
        self.metrics: Mapping[str, float] = {}
        self._weights: Sequence[Any] = ()
        self._network = network
        self._objective = objective

    def offer(self, metrics: Mapping[str, float]) -> None:
        """Keep the network's current weights if they are the best so far."""
        value = metrics[self._objective.metric]
        if self._objective.is_better(value, self.value):
            self.value, self.metrics, self._weights = value, dict(metrics), self._network.get_weights()

    def restore(self) -> None:
        """Put the best weights back into the network."""
        self._network.set_weights(self._weights)

    def get_state(self) -> PartState:
        return {"value": self.value, "metrics": dict(self.metrics)}, list(self._weights)

    def set_state(self, state: PartState) -> None:
        values, self._weights = state
        self.value, self.metrics = values["value"], values["metrics"]


class StopOrder(keras.callbacks.Callback):
    """Ends the training at the next batch after it was asked to stop."""

    def __init__(self, should_stop: ShouldStop) -> None:
        super().__init__()
        self._should_stop = should_stop

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._should_stop():
            raise TrialStopped

    on_test_batch_end = on_train_batch_end


class EpochMetrics(keras.callbacks.Callback):
    """Reports the metrics of every epoch, and ends the training after `patience` epochs without an improvement.

    `images_per_second` covers the training steps, without the first call, which traces the graph, if an epoch has
    several. `learning_rate` is the rate at the epoch's end. The patience looks at this training only: a warm start may
    fall behind its initial weights and come back.
    """

    def __init__(self, global_batch: int, emit: EmitEpoch, best: Best, patience: int, objective: Objective) -> None:
        super().__init__()
        self._global_batch, self._patience = global_batch, patience
        self._emit, self._best, self._objective = emit, best, objective
        self.value = float("nan")  # the last epoch's objective
        self.first_call_seconds = 0.0  # tracing, compiling and the first step, or the first steps that run in one call
        self._best_value: float | None = None
        self._best_epoch = 0
        self._started = 0.0
        self._timed = (0.0, 0, 0.0)  # start of the timing: time, steps run, seconds waited for batches
        self._training: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()
        self.start_timing()

    def start_timing(self) -> None:
        """Measure the images per second from now on."""
        self._timed = (time.perf_counter(), self.model.steps_run, self.model.seconds_waited)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.first_call_seconds:
            self.model.read_metrics()  # waits until the step is done
            self.first_call_seconds = time.perf_counter() - self._started
            if self.model.steps_run % self.model.options.per_epoch:
                self.start_timing()

    def on_test_begin(self, logs: Any = None) -> None:
        metrics = self.model.read_metrics()  # waits until the last step is done
        since, steps, waited = self._timed
        seconds = max(time.perf_counter() - since, 1e-9)
        self._training = {
            **metrics,
            **self.model.guard.read_metrics(),
            "images_per_second": (self.model.steps_run - steps) * self._global_batch / seconds,
            "data_wait_percent": min(100 * (self.model.seconds_waited - waited) / seconds, 100.0),
        }

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        measured = self.model.read_metrics()
        if not math.isfinite(measured["loss"]):  # accuracies of outputs that are not finite mean nothing
            measured = dict.fromkeys(measured, float("nan"))
        validation = {f"val_{name}": value for name, value in measured.items()}
        rate = flat_optimizer(self.model.optimizer).current_rate()
        metrics = {**self._training, **validation, "learning_rate": rate}
        self.value = metrics[self._objective.metric]
        self._best.offer(metrics)
        self._emit(epoch + 1, metrics, time.perf_counter() - self._started)
        if self._objective.is_better(self.value, self._best_value):
            self._best_value, self._best_epoch = self.value, epoch + 1
        if self.is_over(epoch + 1):
            self.model.stop_training = True

    def is_over(self, epochs_done: int) -> bool:
        """Whether the patience has run out."""
        return epochs_done - self._best_epoch >= self._patience

    def get_state(self) -> PartState:
        return {"best_value": self._best_value, "best_epoch": self._best_epoch}, ()

    def set_state(self, state: PartState) -> None:
        self._best_value, self._best_epoch = state[0]["best_value"], state[0]["best_epoch"]


class AveragedWeights(keras.callbacks.Callback):
    """Validates and keeps the moving average of the weights; comes after every callback that reads an epoch."""

    def on_test_begin(self, logs: Any = None) -> None:
        flat_optimizer(self.model.optimizer).swap_average()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        flat_optimizer(self.model.optimizer).swap_average()


class LowerRate(keras.callbacks.Callback):
    """Lowers the learning rate on a plateau of the objective; comes after `EpochMetrics`."""

    def __init__(self, rule: Plateau, metrics: EpochMetrics) -> None:
        super().__init__()
        self._rule = rule
        self._metrics = metrics

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if factor := self._rule.update(self._metrics.value):
            flat_optimizer(self.model.optimizer).multiply_rate(factor)


class PartsOfFit(keras.callbacks.Callback):
    """Tells the clock which part of the fit is running; comes after `EpochMetrics`, which waits for the steps."""

    def __init__(self, clock: TrainingClock) -> None:
        super().__init__()
        self._clock = clock

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._clock.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._clock.enter("training")

    def on_test_begin(self, logs: Any = None) -> None:
        self._clock.enter("validation")

    def on_test_end(self, logs: Any = None) -> None:
        self._clock.enter("training")


class SignsOfLife(keras.callbacks.Callback):
    """Reports at the first step, and then at most once a second, that the training or an evaluation is running.

    It comes after `EpochMetrics`, which waits for the first step.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        """`report` takes the number of training steps run."""
        super().__init__()
        self._report = report
        self._reported = -math.inf

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if now - self._reported >= SECONDS_BETWEEN_SIGNS:
            self._reported = now
            self._report(self.model.steps_run)

    on_test_batch_end = on_train_batch_end


class SpareMemory(keras.callbacks.Callback):
    """Frees memory while the machine is short of it."""

    def __init__(self, threshold_percent: float) -> None:
        super().__init__()
        self._threshold = threshold_percent
        self._checked = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if now - self._checked >= SECONDS_BETWEEN_RELIEFS:
            self._checked = now
            relieve_memory(self._threshold)


class StepProfile(keras.callbacks.Callback):
    """Writes a TensorBoard profile of steps 10 to 20, as far as the training has them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = str(folder)
        self._on = self._done = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        last = self.model.steps_run + self.model.options.per_execution
        if not self._on and not self._done and last >= FIRST_PROFILED_STEP:
            tf.profiler.experimental.start(self._folder)
            self._on = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.steps_run >= LAST_PROFILED_STEP:
            self.on_train_end()

    def on_train_end(self, logs: Any = None) -> None:
        if self._on:
            self.model.read_metrics()  # waits until the last step is done
            tf.profiler.experimental.stop()
            self._on, self._done = False, True
