"""Limits gradients, as one vector of all weights', after the sum over the replicas and without any loss scale.

It then sees what one device would see, so that the result is the same on any number of replicas. No operation reads
another replica, so it may stand in a branch, a loop or a compiled function.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mloptimizer.config.settings import Settings

THRESHOLDS = {"global_norm": 1.0, "norm": 1.0, "value": 0.5, "adaptive": 0.01}
SMALLEST_WEIGHT_NORM = 1e-3  # Brock et al. 2021, section 4.1: else weights that start at zero would stay there

Clip = Callable[[Any], Any]
"""Takes the gradient, a float32 vector as `flatten_gradients` makes it, and returns it limited."""


def make_clip(settings: Settings, weights: Sequence[Any]) -> Clip:
    """Return the clipping of the settings for the gradient of these weights.

    global_norm: the whole gradient shrinks to a norm of `clip_threshold` (Pascanu et al. 2013, algorithm 1).
    norm: each weight's gradient by itself, in the same way. value: each number is cut off at ± the threshold.
    adaptive: see `_clip_adaptively`. off: nothing.
    """
    if settings.clipping == "off":
        return lambda gradient: gradient
    threshold = settings.clip_threshold
    if threshold == "auto":
        threshold = THRESHOLDS[settings.clipping]
    if settings.clipping == "global_norm":
        return lambda gradient: tf.clip_by_norm(gradient, threshold)
    if settings.clipping == "value":
        return lambda gradient: tf.clip_by_value(gradient, -threshold, threshold)
    if settings.clipping == "norm":
        return lambda gradient: _clip_each_weight(gradient, weights, threshold)
    return lambda gradient: _clip_adaptively(gradient, weights, threshold)


def sizes_of(weights: Sequence[Any]) -> list[int]:
    """Return how many numbers each weight has."""
    return [math.prod(weight.shape) for weight in weights]


def _clip_each_weight(gradient: Any, weights: Sequence[Any], threshold: float) -> Any:
    parts = tf.split(gradient, sizes_of(weights))
    norms = tf.sqrt(2 * tf.stack([tf.nn.l2_loss(part) for part in parts]))
    factors = tf.unstack(threshold / tf.maximum(norms, threshold))
    return tf.concat([part * factor for part, factor in zip(parts, factors, strict=True)], axis=0)


def _clip_adaptively(gradient: Any, weights: Sequence[Any], threshold: float) -> Any:
    """Limit the norm of each unit's gradient to a share of the norm of its weights: Brock et al. 2021, equation 3.

    A unit is what leads to one output: all axes but the last, as Keras lays its weights out; a vector (biases, scales)
    is one unit, as in the authors' code. The last layer is left alone, as they found best (section 4.2).
    """
    parts = tf.split(gradient, sizes_of(weights))
    clipped = [number for number, weight in enumerate(weights) if not _is_of_last_layer(weight, weights)]
    if not clipped:
        return gradient
    shapes = [weights[number].shape for number in clipped]
    units = [shape[-1] if len(shape) > 1 else 1 for shape in shapes]
    rows = [tf.reshape(parts[number], [-1, count]) for number, count in zip(clipped, units, strict=True)]
    values = [tf.cast(weights[number].value, tf.float32) for number in clipped]
    own = [tf.reshape(value, [-1, count]) for value, count in zip(values, units, strict=True)]
    limit = threshold * tf.maximum(_norms(own), SMALLEST_WEIGHT_NORM)
    norms = _norms(rows)
    factors = tf.split(limit / tf.maximum(norms, limit), units)
    for number, part, factor in zip(clipped, rows, factors, strict=True):
        parts[number] = tf.reshape(part * factor, [-1])
    return tf.concat(parts, axis=0)


def _is_of_last_layer(weight: Any, weights: Sequence[Any]) -> bool:
    """Whether the weight is of the layer that gives the outputs; one weight alone is not."""
    layer, last = (variable.path.rpartition("/")[0] for variable in (weight, weights[-1]))
    return bool(layer) and layer == last


def _norms(rows: Sequence[Any]) -> Any:
    """Return the norm of every column of these matrices, one after the other."""
    return tf.sqrt(tf.concat([tf.reduce_sum(tf.square(matrix), axis=0) for matrix in rows], axis=0))
