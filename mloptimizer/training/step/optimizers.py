"""Makes the optimizer that a trial's parameters name.

It works on one vector of all gradients, already summed over the replicas. So clipping and the overflow check see the
whole gradient (Keras clips each replica's share, and checks the first replica only), the sum over the replicas is one
message, and the graph has a handful of operations where Keras makes about 25 per weight, whose tracing is half of a
short trial. The resulting weights are those of Keras's own optimizers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Params
from mloptimizer.training.keras_internals import count_on_every_replica, trained_weights
from mloptimizer.training.step.clipping import Clip, make_clip, sizes_of

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 2e-4

Update = Callable[[Any, Sequence[Any], Any, Any], tuple[Any, Sequence[Any]]]
"""Takes gradient, state, learning rate and step (from 1); returns what to subtract from the weights, and the state."""


@dataclass(frozen=True)
class UpdateRule:
    """An optimization algorithm: the number of its state vectors, and its update."""

    states: int
    update: Update


def _adamw(gradient: Any, state: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
    """Loshchilov and Hutter 2019, algorithm 2, with Keras's defaults."""
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-7
    mean = state[0] + (gradient - state[0]) * (1 - beta_1)
    variance = state[1] + (tf.square(gradient) - state[1]) * (1 - beta_2)
    rate = rate * tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return rate * mean / (tf.sqrt(variance) + epsilon), (mean, variance)


def _nesterov(gradient: Any, state: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
    """SGD with Nesterov momentum: Sutskever et al. 2013, section 2, rewritten for the look-ahead point."""
    momentum = 0.9
    velocity = momentum * state[0] + rate * gradient
    return momentum * velocity + rate * gradient, (velocity,)


def _lion(gradient: Any, state: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
    """Chen et al. 2023, algorithm 2, with Keras's defaults."""
    beta_1, beta_2 = 0.9, 0.99
    direction = tf.sign(beta_1 * state[0] + (1 - beta_1) * gradient)
    return rate * direction, (beta_2 * state[0] + (1 - beta_2) * gradient,)


UPDATE_RULES = {"adamw": UpdateRule(2, _adamw), "sgd": UpdateRule(1, _nesterov), "lion": UpdateRule(1, _lion)}


class FlatOptimizer(keras.optimizers.Optimizer):
    """Applies a rule to all weights as one vector; `apply` takes a list of one such gradient.

    Guarantees: every replica updates its own copies alike, and none waits for another, so `apply` works in branches,
    loops and compiled functions. Its memory is in `variables`: step, rate factor, state, average.
    """

    def __init__(
        self, rule: UpdateRule, learning_rate: Any, weight_decay: float, clip: Clip, ema_momentum: float
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self._rule = rule
        self._clip = clip
        self._momentum = ema_momentum
        self._state: list[Any] = []
        count_on_every_replica(self)

    def build(self, variables: Sequence[Any]) -> None:
        """Make the state for these weights; call it in the scope of the strategy.

        The moving average starts at the weights' current values.
        """
        super().build(list(variables))
        size = sum(sizes_of(variables))
        share = keras.initializers.Constant(self.weight_decay)  # a variable: trials share XLA's compiled code
        self._decay = self.add_variable((), initializer=share, dtype="float32", name="weight_decay")
        self.rate_factor = self.add_variable((), initializer="ones", dtype="float32", name="rate_factor")
        vectors = [f"state_{number}" for number in range(self._rule.states)] + ["average"] * bool(self._momentum)
        made = [self.add_variable((size,), dtype="float32", name=name) for name in vectors]
        self._state = made[: self._rule.states]
        if self._momentum:
            self._average = made[-1]
            self._average.value.assign(_flatten([weight.value for weight in variables]))

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Update the weights by the gradient, a vector as `flatten_gradients` makes it."""
        rate = tf.cast(self.learning_rate, tf.float32) * self.rate_factor.value
        step = tf.cast(self.iterations.value + 1, tf.float32)
        old = [tf.identity(vector.value) for vector in self._state]
        change, new = self._rule.update(self._clip(grads[0]), old, rate, step)
        for vector, value in zip(self._state, new, strict=True):
            vector.value.assign(value)
        decay = rate * self._decay.value
        weights = trained_weights(self)
        for weight, part in zip(weights, tf.split(change, sizes_of(weights)), strict=True):
            _subtract(weight, tf.reshape(part, weight.shape), decay)
        if self._momentum:  # the average moves faster in the first steps, as TensorFlow's own does
            momentum = tf.minimum(self._momentum, (1 + step) / (10 + step))
            gap = _flatten([weight.value for weight in weights]) - self._average.value
            self._average.value.assign_add((1 - momentum) * gap)
        self.iterations.value.assign_add(1)

    def multiply_rate(self, factor: float) -> None:
        """Multiply the schedule's learning rates by one more factor from now on; not for use within a step."""
        self.rate_factor.value.assign(tf.convert_to_tensor(self.rate_factor.value) * factor)

    def current_rate(self) -> float:
        """Return the learning rate of the next step, with the factor; not for use within a step."""
        return float(tf.convert_to_tensor(self.learning_rate)) * float(tf.convert_to_tensor(self.rate_factor.value))

    def swap_average(self) -> None:
        """Swap the weights and their moving average, if any, on every replica; not for use within a step.

        A second call restores both exactly.
        """
        if not self._momentum:
            return
        weights = trained_weights(self)
        average = tf.split(tf.convert_to_tensor(self._average.value), sizes_of(weights))
        self._average.value.assign(_flatten([weight.value for weight in weights]))
        for weight, part in zip(weights, average, strict=True):
            weight.value.assign(tf.cast(tf.reshape(part, weight.shape), weight.value.dtype))


def _subtract(weight: Any, change: Any, decay: Any) -> None:
    variable = weight.value
    if len(weight.shape) > 1:  # biases and the scales of normalisations, which are vectors, do not decay
        change = change + decay * tf.cast(variable, tf.float32)
    variable.assign_sub(tf.cast(change, variable.dtype))
    if weight.constraint is not None:
        variable.assign(weight.constraint(tf.convert_to_tensor(variable)))


def _flatten(tensors: Sequence[Any]) -> Any:
    return tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], axis=0)


def flatten_gradients(gradients: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Return all gradients as one float32 vector, with zeros for a weight without a gradient."""
    pairs = zip(gradients, sizes_of(weights), strict=True)
    return _flatten([tf.zeros(size) if gradient is None else gradient for gradient, size in pairs])


def choose_rule(params: Params) -> UpdateRule:
    """Return the rule named by the checked parameter `optimizer`."""
    return UPDATE_RULES[str(params.get("optimizer", "adamw"))]


def make_optimizer(params: Params, schedule: Any, weights: Sequence[Any], settings: Settings, scale_loss: bool) -> Any:
    """Return the built optimizer; call it in the scope of the strategy.

    Args:
        params: `optimizer` (adamw, the default, sgd or lion) and `weight_decay` (default 2e-4): the share of each
            weight, times the learning rate, that every step subtracts.
        schedule: learning rate by step.
        settings: clipping, clip_threshold and ema_momentum count.
        scale_loss: scale the loss against underflow in float16.
    """
    weight_decay, clip = float(params.get("weight_decay", WEIGHT_DECAY)), make_clip(settings, weights)
    optimizer: Any = FlatOptimizer(choose_rule(params), schedule, weight_decay, clip, settings.ema_momentum)
    if scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(weights)
    return optimizer


def flat_optimizer(optimizer: Any) -> FlatOptimizer:
    """Return the part of `make_optimizer`'s result that updates the weights: the optimizer within a loss scale."""
    return cast(FlatOptimizer, getattr(optimizer, "inner_optimizer", optimizer))
