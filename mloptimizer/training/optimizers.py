"""Makes the optimizer that a trial's parameters name.

It works on one vector: all gradients, one after the other, summed over the replicas before they come here. So clipping
and the check for overflow see the whole gradient (Keras clips each replica's share, and looks for overflow on the first
replica only), a sum over the replicas is one message, and the graph has a handful of operations where Keras makes about
25 per weight: tracing them is half of a short trial. The weights that result are those of Keras's own optimizers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.records import Params
from mloptimizer.training.failures import SpaceError

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 2e-4

Update = Callable[[Any, Sequence[Any], Any, Any], tuple[Any, Sequence[Any]]]
"""Takes gradient, state, learning rate and step (from 1); returns what to subtract from the weights, and the state."""


@dataclass(frozen=True)
class Rule:
    """An optimization algorithm: how many vectors it remembers, and how it updates."""

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
    """SGD with Nesterov momentum: Sutskever et al. 2013, section 2, rewritten for the point looked ahead to."""
    momentum = 0.9
    velocity = momentum * state[0] + rate * gradient
    return momentum * velocity + rate * gradient, (velocity,)


def _lion(gradient: Any, state: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
    """Chen et al. 2023, algorithm 2, with Keras's defaults."""
    beta_1, beta_2 = 0.9, 0.99
    direction = tf.sign(beta_1 * state[0] + (1 - beta_1) * gradient)
    return rate * direction, (beta_2 * state[0] + (1 - beta_2) * gradient,)


RULES = {"adamw": Rule(2, _adamw), "sgd": Rule(1, _nesterov), "lion": Rule(1, _lion)}


class FlatOptimizer(keras.optimizers.Optimizer):
    """Applies a rule to all weights as one vector; give `apply` a list of one such gradient."""

    def __init__(self, rule: Rule, learning_rate: Any, weight_decay: float, global_clipnorm: float | None) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm)
        self._rule = rule
        self._weights: list[Any] = []
        self._state: list[Any] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Make the state for these weights; call it in the scope of the strategy."""
        super().build(list(variables))
        size = sum(math.prod(variable.shape) for variable in variables)
        self._weights = list(variables)
        self._state = [self.add_variable((size,), name=f"state_{number}") for number in range(self._rule.states)]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Update the weights by the gradient, a vector as `flatten_gradients` makes it."""
        gradient = grads[0]
        if self.global_clipnorm:
            gradient = tf.clip_by_norm(gradient, self.global_clipnorm)
        rate = tf.cast(self.learning_rate, tf.float32)
        step = tf.cast(self.iterations + 1, tf.float32)
        change, states = self._rule.update(gradient, [tf.identity(old.value) for old in self._state], rate, step)
        for old, new in zip(self._state, states, strict=True):
            old.value.assign(new)
        parts = tf.split(change, [math.prod(weight.shape) for weight in self._weights])
        for weight, part in zip(self._weights, parts, strict=True):
            self._subtract(weight, tf.reshape(part, weight.shape), rate)
        self.iterations.assign_add(1)

    def _subtract(self, weight: Any, change: Any, rate: Any) -> None:
        variable = weight.value
        if _decays(weight):
            change = change + rate * self.weight_decay * tf.cast(variable, tf.float32)
        variable.assign_sub(tf.cast(change, variable.dtype))
        if weight.constraint is not None:
            variable.assign(weight.constraint(tf.convert_to_tensor(variable)))


def _decays(weight: Any) -> bool:
    """Whether weight decay applies: not to biases and the scales of normalisations, which are vectors."""
    return len(weight.shape) > 1


def flatten_gradients(gradients: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Return all gradients as one float32 vector; a weight that has none counts with zeros."""
    vectors = [
        tf.zeros(math.prod(weight.shape)) if gradient is None else tf.reshape(tf.cast(gradient, tf.float32), [-1])
        for gradient, weight in zip(gradients, weights, strict=True)
    ]
    return tf.concat(vectors, axis=0)


def make_optimizer(
    params: Params, schedule: Any, weights: Sequence[Any], global_clipnorm: float, scale_loss: bool
) -> Any:
    """Return the built optimizer; call it in the scope of the strategy.

    Args:
        params: `optimizer` (adamw, the default, sgd or lion) and `weight_decay` (default 2e-4): the share of each
            weight, times the learning rate, that every step takes away.
        schedule: learning rate by step.
        weights: the model's trainable ones.
        global_clipnorm: largest norm of all gradients together; 0: no clipping.
        scale_loss: scale the loss against underflow in float16.

    Raises:
        SpaceError: there is no such optimizer.
    """
    name = str(params.get("optimizer", "adamw"))
    if name not in RULES:
        raise SpaceError(f"optimizer = {name!r}: is not known. Possible: {', '.join(RULES)}.")
    weight_decay = float(params.get("weight_decay", WEIGHT_DECAY))
    optimizer: Any = FlatOptimizer(RULES[name], schedule, weight_decay, global_clipnorm or None)
    if scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(weights)
    return optimizer
