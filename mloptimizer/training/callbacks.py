"""Follows a training: records every epoch, keeps the best weights, and ends it when it should end."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from mloptimizer.engines.base import ShouldStop
from mloptimizer.records import Objective
from mloptimizer.training.failures import NonFiniteError, TrialStopped

SECONDS_BETWEEN_LOSS_CHECKS = 1.0  # reading the loss waits for the GPU, so it is not done every step

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


class FiniteLoss(keras.callbacks.Callback):
    """Ends a training whose loss is no number any more, within about a second."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._checked = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if now - self._checked >= SECONDS_BETWEEN_LOSS_CHECKS:
            self._checked = now
            # Under loss scaling, the first steps of an epoch may all overflow: only the whole epoch tells.
            if self.model.images_counted():
                self._check("training loss", f"by step {batch + 1}")

    def on_test_begin(self, logs: Any = None) -> None:
        self._check("training loss", "at its end")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._check("validation loss", "at its end")

    def _check(self, what: str, when: str) -> None:
        loss = self.model.figures()["loss"]
        if not math.isfinite(loss):
            raise NonFiniteError(f"the {what} is {loss} in epoch {self._epoch}, {when}")


class EpochFigures(keras.callbacks.Callback):
    """Hands on the figures of every epoch, and ends the training when `patience` epochs have brought nothing better.

    `images_per_second` is of the training steps; the first step of the training, which traces the graph, is left out
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
        self._best_value: float | None = None
        self._best_epoch = 0
        self._begun = self._timed = 0.0
        self._epoch = self._steps = 0
        self._training: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._begun = self._timed = time.perf_counter()
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += 1
        if batch == 0 and self._epoch == 0 and self.params["steps"] > 1:
            self._timed, self._steps = time.perf_counter(), 0

    def on_test_begin(self, logs: Any = None) -> None:
        figures = self.model.figures()  # waits until the last step is done
        seconds = max(time.perf_counter() - self._timed, 1e-9)
        self._training = {**figures, "images_per_second": self._steps * self._global_batch / seconds}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        validation = {f"val_{name}": value for name, value in self.model.figures().items()}
        rate = float(self.model.optimizer.learning_rate)
        metrics = {**self._training, **validation, "learning_rate": rate}
        self._best.offer(metrics)
        self._emit(epoch + 1, metrics, time.perf_counter() - self._begun)
        if self._objective.is_better(metrics[self._objective.metric], self._best_value):
            self._best_value, self._best_epoch = metrics[self._objective.metric], epoch + 1
        if epoch + 1 - self._best_epoch >= self._patience:
            self.model.stop_training = True
