"""Protects a training from values that are not finite, and says where they came from.

A step whose loss or gradient is NaN or infinite is skipped. After too many in a row, the training returns to the last
good weights with half the learning rate; when the retries are used up, it fails and names the step, the first layer
whose output is not finite, and the last gradient norms.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mloptimizer.training.checkpoints.checkpoint_files import PartState
from mloptimizer.training.devices import Decide
from mloptimizer.training.step.optimizers import flat_optimizer
from mloptimizer.training.trial_failures import NonFiniteError

SECONDS_BETWEEN_CHECKS = 1.0  # not every step: reading a value waits for the GPU
RECENT_NORMS = 5
IMAGES_AT_ONCE = 8  # of the search for the bad layer, which keeps all outputs
_IN_A_ROW, _SKIPPED, _STEPS, _FIRST_BAD, _NORM_SUM, _NORMS = range(6)


class StepGuard:
    """Judges and counts every step on the device; make it in the scope of the strategy.

    Every replica judges the same summed gradient, so all decide alike. `variable` is its memory, a vector that is the
    same on every replica.
    """

    def __init__(self) -> None:
        self.variable = tf.Variable(tf.zeros(_NORMS + 1 + RECENT_NORMS), trainable=False, name="step_guard")

    def judge(self, gradient: Any, loss_scale: Any) -> Any:
        """Return whether every value of the summed, scaled gradient is finite, and count the step."""
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        norm = tf.norm(gradient[:-1]) / tf.cast(loss_scale, tf.float32)
        old = tf.unstack(tf.identity(self.variable))
        good, bad = tf.cast(finite, tf.float32), 1.0 - tf.cast(finite, tf.float32)
        begins = tf.logical_and(tf.logical_not(finite), old[_IN_A_ROW] == 0)
        counts = [
            (old[_IN_A_ROW] + 1.0) * bad,
            old[_SKIPPED] + bad,
            old[_STEPS] + 1.0,
            tf.where(begins, old[_STEPS], old[_FIRST_BAD]),
            old[_NORM_SUM] + tf.where(finite, norm, 0.0),
            old[_NORMS] + good,
        ]
        self.variable.assign(tf.stack([*counts, *old[_NORMS + 2 :], norm]))
        return finite

    def start_epoch(self) -> None:
        """Reset the epoch's counts."""
        self._reset(_SKIPPED, _NORM_SUM, _NORMS)

    def forgive(self) -> None:
        """Reset the count of bad steps in a row."""
        self._reset(_IN_A_ROW)

    def in_a_row(self) -> int:
        """Return how many of the last steps were skipped in a row."""
        return int(self._read()[_IN_A_ROW])

    def first_bad_step(self) -> int:
        """Return the step, from 0, with which the last row of skipped steps began."""
        return int(self._read()[_FIRST_BAD])

    def recent_norms(self) -> list[float]:
        """Return the gradient norms of the last steps, oldest first; 0 before the first step."""
        return [float(norm) for norm in self._read()[_NORMS + 1 :]]

    def read_metrics(self) -> dict[str, float]:
        """Return the epoch's mean gradient norm (NaN without a good step) and its number of skipped steps."""
        state = self._read()
        mean = float(state[_NORM_SUM] / state[_NORMS]) if state[_NORMS] else float("nan")
        return {"gradient_norm": mean, "skipped_steps": float(state[_SKIPPED])}

    def _read(self) -> np.ndarray:
        strategy = tf.distribute.get_strategy()
        return np.array(strategy.experimental_local_results(self.variable)[0].numpy())

    def _reset(self, *counts: int) -> None:
        state = self._read()
        state[[*counts]] = 0.0
        self.variable.assign(state)


def snapshot_variables(model: Any) -> list[Any]:
    """Return the variables of a snapshot: weights, statistics and the optimizer's memory, but not its step."""
    flat = flat_optimizer(model.optimizer)
    fixed = {id(flat.iterations), id(flat.rate_factor)}
    return [*model.variables, *(variable for variable in model.optimizer.variables if id(variable) not in fixed)]


class GoBack(keras.callbacks.Callback):
    """Restores the last good state, kept in host memory, when steps stop being finite; fails after too many retries.

    Args:
        find_layer: describes where the values of a step stop being finite.
    """

    def __init__(self, patience: int, retries: int, find_layer: Callable[[int], str], decide: Decide) -> None:
        super().__init__()
        self._patience, self._left, self._retries = patience, retries, retries
        self._find_layer, self._decide = find_layer, decide
        self._checked = time.monotonic()
        self._epoch = 0
        self._bad_validation = ""  # the problem with the last epoch's
        self._variables: list[Any] = []
        self._good: Sequence[Any] = ()  # their last good values
        self._older: Sequence[Any] = ()  # the same, if older than the end of the last epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self._variables = snapshot_variables(self.model)
        self._good = self._older or self._take()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not at an epoch's end: the moving average may then stand in for the weights.
        self._epoch = epoch + 1
        if self._bad_validation:
            self._restore(self._bad_validation)
            self._bad_validation = ""
            self._older = ()
        elif epoch and self.model.guard.in_a_row():
            self._older = self._good
        elif epoch:
            self._good, self._older = self._take(), ()
        self.model.guard.start_epoch()

    def get_state(self) -> PartState:
        """Return the retries left and the older values; valid at the start of an epoch."""
        return {"left": self._left}, self._older

    def set_state(self, state: PartState) -> None:
        """Restore what `get_state` returned, before the training begins."""
        self._left, self._older = state[0]["left"], state[1]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if now - self._checked >= SECONDS_BETWEEN_CHECKS:
            self._checked = now
            self._check_steps()

    def on_test_begin(self, logs: Any = None) -> None:
        self._check_steps()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not math.isfinite(self.model.read_metrics()["loss"]):
            self._bad_validation = f"the validation loss of epoch {self._epoch} is not finite"
            self._use_up_a_retry(self._bad_validation, self.model.steps_run - 1)

    def _check_steps(self) -> None:
        guard = self.model.guard
        skipped = guard.in_a_row()
        if skipped >= self._patience:
            step = guard.first_bad_step()
            what = f"{skipped} steps from step {step + 1} on had a loss or gradient that is not finite"
            self._use_up_a_retry(what, step)
            self._restore(what)

    def _use_up_a_retry(self, what: str, step: int) -> None:
        if not self._left:
            norms = ", ".join(f"{norm:.3g}" for norm in self.model.guard.recent_norms())
            times = f" after going back {self._retries} times" if self._retries else ""
            where = self._find_layer(step)
            raise NonFiniteError(f"{what}{times}, in epoch {self._epoch}; {where}; last gradient norms: {norms}")
        self._left -= 1

    def _take(self) -> list[Any]:
        return [tf.convert_to_tensor(variable.value).numpy() for variable in self._variables]

    def _restore(self, what: str) -> None:
        for variable, value in zip(self._variables, self._good, strict=True):
            variable.assign(value)
        flat_optimizer(self.model.optimizer).multiply_rate(0.5)
        self.model.guard.forgive()
        self._decide("stability", "back to the last good weights, half the learning rate", what)


def find_bad_layer(network: Any, images: Any) -> str:
    """Describe where the network's values stop being finite on these images."""
    for weight in network.weights:
        if weight.dtype.startswith("float") and not _is_finite(weight.value):
            return f"the weights '{weight.path}' are not finite"
    try:
        for first in range(0, int(images.shape[0]), IMAGES_AT_ONCE):
            if found := _find_bad_output(network, images[first : first + IMAGES_AT_ONCE]):
                return found
    except (tf.errors.OpError, MemoryError, TypeError, ValueError) as error:  # a layer may need a graph, or more room
        return f"the place was not found ({type(error).__name__})"
    return "every layer's output is finite: the loss or the gradient is not"


def _find_bad_output(network: Any, images: Any) -> str:
    if not _is_finite(images):
        return "the images themselves are not finite"
    named = [(operation, output) for operation in network.operations for output in _output_of(operation)]
    outputs = keras.Model(network.inputs, [output for _, output in named])(images, training=True)
    for (operation, _), output in zip(named, tf.nest.flatten(outputs), strict=True):
        if output.dtype.is_floating and not _is_finite(output):
            return f"the first output that is not finite is that of '{operation.name}' ({type(operation).__name__})"
    return ""


def _is_finite(values: Any) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(values))))


def _output_of(operation: Any) -> Sequence[Any]:
    """Return the operation's output, or nothing if it has none or several."""
    try:
        output = operation.output
    except (AttributeError, ValueError):
        return []
    return [output] if isinstance(output, keras.KerasTensor) else []


@contextlib.contextmanager
def checked_numerics(on: bool) -> Iterator[None]:
    """If on, let TensorFlow raise within the block where the output of an operation is not finite."""
    if on:
        tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        if on:
            tf.debugging.disable_check_numerics()
