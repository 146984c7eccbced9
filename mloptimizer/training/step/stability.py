"""Keeps a training from being ruined by figures that are not finite, and says where they came from.

A step whose loss or gradient is NaN or infinite is skipped. When too many come in a row, the last good weights come
back with half the learning rate; when that has not helped often enough, the training ends, and names the step, the
layer whose output went bad first, and the last gradient norms.
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

SECONDS_BETWEEN_CHECKS = 1.0  # reading a figure waits for the GPU, so it is not done every step
RECENT_NORMS = 5
IMAGES_AT_ONCE = 8  # when looking for the bad layer, which keeps the outputs of all
_IN_A_ROW, _SKIPPED, _STEPS, _FIRST_BAD, _NORM_SUM, _NORMS = range(6)


class StepGuard:
    """Judges every step on the device, and counts there; make it in the scope of the strategy.

    Every replica judges the same summed gradient, so all decide alike.
    """

    def __init__(self) -> None:
        self._state = tf.Variable(tf.zeros(_NORMS + 1 + RECENT_NORMS), trainable=False, name="step_guard")

    @property
    def variable(self) -> Any:
        """Its memory, a vector that is the same on every replica."""
        return self._state

    def judge(self, gradient: Any, loss_scale: Any) -> Any:
        """Return whether every value of the summed, scaled gradient is finite, and count the step."""
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        norm = tf.norm(gradient[:-1]) / tf.cast(loss_scale, tf.float32)
        old = tf.unstack(tf.identity(self._state))
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
        self._state.assign(tf.stack([*counts, *old[_NORMS + 2 :], norm]))
        return finite

    def start_epoch(self) -> None:
        """Begin the epoch's counts."""
        state = self._read()
        state[[_SKIPPED, _NORM_SUM, _NORMS]] = 0.0
        self._state.assign(state)

    def forgive(self) -> None:
        """Forget the bad steps in a row."""
        state = self._read()
        state[_IN_A_ROW] = 0.0
        self._state.assign(state)

    def in_a_row(self) -> int:
        """Return how many of the last steps were skipped, one after the other."""
        return int(self._read()[_IN_A_ROW])

    def first_bad_step(self) -> int:
        """Return the step, from 0, with which the last row of skipped ones began."""
        return int(self._read()[_FIRST_BAD])

    def recent_norms(self) -> list[float]:
        """Return the gradient norms of the last steps, oldest first; 0 where there was no step yet."""
        return [float(norm) for norm in self._read()[_NORMS + 1 :]]

    def read_metrics(self) -> dict[str, float]:
        """Return the epoch's mean gradient norm (NaN when no step was made) and its skipped steps."""
        state = self._read()
        mean = float(state[_NORM_SUM] / state[_NORMS]) if state[_NORMS] else float("nan")
        return {"gradient_norm": mean, "skipped_steps": float(state[_SKIPPED])}

    def _read(self) -> np.ndarray:
        strategy = tf.distribute.get_strategy()
        return np.array(strategy.experimental_local_results(self._state)[0].numpy())


class _Snapshot:
    """A model's last good state in host memory: weights, statistics and the optimizer's memory, but not its step."""

    def __init__(self, model: Any) -> None:
        self._variables = snapshot_variables(model)
        self.values: Sequence[Any] = ()
        self.take()

    def take(self) -> None:
        """Keep the present state."""
        self.values = [tf.convert_to_tensor(variable.value).numpy() for variable in self._variables]

    def restore(self) -> None:
        """Give the model the state that was kept."""
        for variable, value in zip(self._variables, self.values, strict=True):
            variable.assign(value)


def snapshot_variables(model: Any) -> list[Any]:
    """Return the variables whose values a `_Snapshot` holds, in its order."""
    return [*model.variables, *_memory(model.optimizer)]


def _memory(optimizer: Any) -> list[Any]:
    flat = flat_optimizer(optimizer)
    fixed = {id(flat.iterations), id(flat.rate_factor)}
    return [variable for variable in optimizer.variables if id(variable) not in fixed]


class GoBack(keras.callbacks.Callback):
    """Brings the last good state back when steps stop being finite, and in the end fails the training.

    Args:
        find_layer: says in words where the step's figures go bad.
    """

    def __init__(self, patience: int, retries: int, find_layer: Callable[[int], str], decide: Decide) -> None:
        super().__init__()
        self._patience, self._left, self._retries = patience, retries, retries
        self._find_layer, self._decide = find_layer, decide
        self._checked = time.monotonic()
        self._epoch = 0
        self._bad_validation = ""  # what was wrong with the last epoch's
        self._snapshot: _Snapshot | None = None
        self._older: Sequence[Any] = ()  # the last good values, where they are not those of the last epoch's end

    def on_train_begin(self, logs: Any = None) -> None:
        self._snapshot = _Snapshot(self.model)
        if self._older:
            self._snapshot.values = self._older

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not when an epoch ends: then its moving average may stand in for the weights.
        self._epoch = epoch + 1
        if self._bad_validation:
            self._restore(self._bad_validation)
            self._bad_validation = ""
            self._older = ()
        elif epoch and self._snapshot and self.model.guard.in_a_row():
            self._older = self._snapshot.values
        elif epoch and self._snapshot:
            self._snapshot.take()
            self._older = ()
        self.model.guard.start_epoch()

    def get_state(self) -> PartState:
        """Return what a checkpoint keeps of it when an epoch begins: the retries left, and older values."""
        return {"left": self._left}, self._older

    def set_state(self, kept: PartState) -> None:
        """Be as it was when `kept` was returned; before the training begins."""
        values, self._older = kept
        self._left = values["left"]

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

    def _restore(self, what: str) -> None:
        if self._snapshot:
            self._snapshot.restore()
        flat_optimizer(self.model.optimizer).multiply_rate(0.5)
        self.model.guard.forgive()
        self._decide("stability", "back to the last good weights, half the learning rate", what)


def find_bad_layer(network: Any, images: Any) -> str:
    """Say in words where, on these images, the network's figures stop being finite."""
    for weight in network.weights:
        if weight.dtype.startswith("float") and not _is_finite(weight.value):
            return f"the weights '{weight.path}' are not finite"
    try:
        for first in range(0, int(images.shape[0]), IMAGES_AT_ONCE):
            found = _find_bad_output(network, images[first : first + IMAGES_AT_ONCE])
            if found:
                return found
    except (tf.errors.OpError, MemoryError, TypeError, ValueError) as error:  # a layer may need a graph, or more room
        return f"where could not be found out ({type(error).__name__})"
    return "every layer's output is finite: the loss or the gradient is not"


def _find_bad_output(network: Any, images: Any) -> str:
    if not _is_finite(images):
        return "the images themselves are not finite"
    named = [(operation, output) for operation in network.operations for output in _output_of(operation)]
    outputs = keras.Model(network.inputs, [output for _, output in named])(images, training=True)
    for (operation, _), output in zip(named, tf.nest.flatten(outputs), strict=True):
        if output.dtype.is_floating and not _is_finite(output):
            kind = type(operation).__name__
            return f"the first output that is not finite is that of '{operation.name}' ({kind})"
    return ""


def _is_finite(values: Any) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(values))))


def _output_of(operation: Any) -> Sequence[Any]:
    """Return the operation's output, or nothing where it has none or several."""
    try:
        output = operation.output
    except (AttributeError, ValueError):
        return []
    return [output] if isinstance(output, keras.KerasTensor) else []


@contextlib.contextmanager
def checked_numerics(on: bool) -> Iterator[None]:
    """Let TensorFlow check the output of every operation meanwhile; it raises where one is not finite."""
    if not on:
        yield
        return
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()
