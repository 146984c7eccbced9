"""Follows a training: records every epoch, keeps the best weights, lowers rates, and ends it when it should end."""

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
from mloptimizer.training.checkpoints.checkpoint_files import Kept
from mloptimizer.training.memory.estimate import relieve_memory
from mloptimizer.training.step.optimizers import flat_optimizer
from mloptimizer.training.step.schedule import Plateau
from mloptimizer.training.trial_failures import TrialStopped

SECONDS_BETWEEN_SIGNS = 1.0
SECONDS_BETWEEN_RELIEFS = 30.0  # collecting takes some tenths of a second
FIRST_PROFILED_STEP, LAST_PROFILED_STEP = 10, 20  # counted from 1

EmitEpoch = Callable[[int, Mapping[str, float], float], None]
"""Takes the epoch (from 1), its figures and its seconds."""


class Best:
    """The best state of a network so far, in host memory."""

    def __init__(self, network: Any, objective: Objective) -> None:
        self.value: float | None = None
        self.metrics: Mapping[str, float] = {}
        self._weights: Sequence[Any] = ()
        self._network = network
        self._objective = objective

    def offer(self, metrics: Mapping[str, float]) -> None:
        """Keep the network's present weights if they are better than the best."""
        value = metrics[self._objective.metric]
        if self._objective.is_better(value, self.value):
            self.value, self.metrics, self._weights = value, dict(metrics), self._network.get_weights()

    def restore(self) -> None:
        """Give the network its best weights back."""
        self._network.set_weights(self._weights)

    def kept(self) -> Kept:
        """Return what a checkpoint keeps of it."""
        return {"value": self.value, "metrics": dict(self.metrics)}, list(self._weights)

    def take_back(self, kept: Kept) -> None:
        """Be as it was when `kept` was returned."""
        values, self._weights = kept
        self.value, self.metrics = values["value"], values["metrics"]


class StopOrder(keras.callbacks.Callback):
    """Ends the training at the next batch once it is told to."""

    def __init__(self, should_stop: ShouldStop) -> None:
        super().__init__()
        self._should_stop = should_stop

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._obey()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._obey()

    def _obey(self) -> None:
        if self._should_stop():
            raise TrialStopped


class EpochFigures(keras.callbacks.Callback):
    """Hands on the figures of every epoch, and ends the training when `patience` epochs have brought nothing better.

    `images_per_second` is of the training steps; the first call of the training, which traces the graph, is left out
    where an epoch has more than one. `learning_rate` is the rate at the epoch's end. The patience looks at this
    training only: a warm start whose first epochs fall behind where it started from has time to come back.
    """

    def __init__(self, global_batch: int, emit: EmitEpoch, best: Best, patience: int, objective: Objective) -> None:
        super().__init__()
        self._global_batch = global_batch
        self._emit = emit
        self._best = best
        self._patience = patience
        self._objective = objective
        self.value = float("nan")  # the last epoch's objective
        self.first_call_seconds = 0.0  # tracing, compiling and the first step, or the first steps that run in one call
        self._best_value: float | None = None
        self._best_epoch = 0
        self._begun = 0.0
        self._epoch = 0
        self._timed = (0.0, 0, 0.0)  # since when, at which step, and how long was waited before
        self._training: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._begun = time.perf_counter()
        self.start_timing()

    def start_timing(self) -> None:
        """Leave what was until now out of the images per second."""
        self._timed = (time.perf_counter(), self.model.steps_run, self.model.seconds_waited)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.first_call_seconds:
            self.model.figures()  # waits until the step is done
            self.first_call_seconds = time.perf_counter() - self._begun
            if self.model.steps_run % self.model.options.per_epoch:
                self.start_timing()

    def on_test_begin(self, logs: Any = None) -> None:
        figures = self.model.figures()  # waits until the last step is done
        since, steps, waited = self._timed
        seconds = max(time.perf_counter() - since, 1e-9)
        self._training = {
            **figures,
            **self.model.guard.figures(),
            "images_per_second": (self.model.steps_run - steps) * self._global_batch / seconds,
            "data_wait_percent": min(100 * (self.model.seconds_waited - waited) / seconds, 100.0),
        }

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        figures = self.model.figures()
        if not math.isfinite(figures["loss"]):  # the hits of outputs that are no numbers say nothing
            figures = dict.fromkeys(figures, float("nan"))
        validation = {f"val_{name}": value for name, value in figures.items()}
        rate = flat_optimizer(self.model.optimizer).current_rate()
        metrics = {**self._training, **validation, "learning_rate": rate}
        self.value = metrics[self._objective.metric]
        self._best.offer(metrics)
        self._emit(epoch + 1, metrics, time.perf_counter() - self._begun)
        if self._objective.is_better(self.value, self._best_value):
            self._best_value, self._best_epoch = self.value, epoch + 1
        if self.is_over(epoch + 1):
            self.model.stop_training = True

    def is_over(self, epochs_done: int) -> bool:
        """Whether the patience has ended the training."""
        return epochs_done - self._best_epoch >= self._patience

    def kept(self) -> Kept:
        """Return what a checkpoint keeps of it."""
        return {"best_value": self._best_value, "best_epoch": self._best_epoch}, ()

    def take_back(self, kept: Kept) -> None:
        """Be as it was when `kept` was returned."""
        values, _ = kept
        self._best_value, self._best_epoch = values["best_value"], values["best_epoch"]


class AveragedWeights(keras.callbacks.Callback):
    """Validates, and lets be kept, the moving average of the weights; stands behind what looks at an ended epoch."""

    def on_test_begin(self, logs: Any = None) -> None:
        flat_optimizer(self.model.optimizer).swap_average()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        flat_optimizer(self.model.optimizer).swap_average()


class LowerRate(keras.callbacks.Callback):
    """Lowers the learning rate as the rule says, by every epoch's objective; stands behind `EpochFigures`."""

    def __init__(self, rule: Plateau, figures: EpochFigures) -> None:
        super().__init__()
        self._rule = rule
        self._figures = figures

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        factor = self._rule.update(self._figures.value)
        if factor is not None:
            flat_optimizer(self.model.optimizer).multiply_rate(factor)


class PartsOfFit(keras.callbacks.Callback):
    """Tells the clock which part of the fit is under way; stands behind `EpochFigures`, which awaits the steps."""

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
    """Tells that the training, or an evaluation, goes on: at its first step, and from then on at most once a second."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        """Take whom to tell how many training steps are made; stand behind `EpochFigures`, which awaits the first."""
        super().__init__()
        self._tell = tell
        self._told = -math.inf

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._sign()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._sign()

    def _sign(self) -> None:
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_SIGNS:
            self._told = now
            self._tell(self.model.steps_run)


class SpareMemory(keras.callbacks.Callback):
    """Returns memory that can be spared while the machine's runs short."""

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
    """Writes a TensorBoard profile of the steps 10 to 20, or of those of them that there are."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = str(folder)
        self._on = self._done = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        following = self.model.steps_run + self.model.options.per_execution
        if not self._on and not self._done and following >= FIRST_PROFILED_STEP:
            tf.profiler.experimental.start(self._folder)
            self._on = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._on and self.model.steps_run >= LAST_PROFILED_STEP:
            self._end()

    def on_train_end(self, logs: Any = None) -> None:
        if self._on:
            self._end()

    def _end(self) -> None:
        self.model.figures()  # waits until the last step is done
        tf.profiler.experimental.stop()
        self._on, self._done = False, True
