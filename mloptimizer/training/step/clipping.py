"""Clips gradients, as one vector for all weights, after the sum over the replicas and without any loss scale.

It sees what a single device would see, so the result is the same on any number of replicas. No operation reads another
replica, so it works in branches, loops and compiled functions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mloptimizer.config.settings import Settings

THRESHOLDS = {"global_norm": 1.0, "norm": 1.0, "value": 0.5, "adaptive": 0.01}
SMALLEST_WEIGHT_NORM = 1e-3  # Brock et al. 2021, section 4.1: else weights that start at zero would stay there

Clip = Callable[[Any], Any]
"""Takes the gradient, a float32 vector as `flatten_gradients` makes it, and returns it clipped."""


def make_clip(settings: Settings, weights: Sequence[Any]) -> Clip:
    """Return the clipping of the settings for the gradient of these weights.

    global_norm: the whole gradient shrinks to a norm of `clip_threshold` (Pascanu et al. 2013, algorithm 1).
    norm: the same for each weight's gradient. value: each element is clipped to ± the threshold.
    adaptive: see `_clip_adaptively`. off: none.
    """
    if settings.clipping == "off":
        return lambda gradient: gradient
    threshold = THRESHOLDS[settings.clipping] if settings.clip_threshold == "auto" else settings.clip_threshold
    if settings.clipping == "global_norm":
        return lambda gradient: tf.clip_by_norm(gradient, threshold)
    if settings.clipping == "value":
        return lambda gradient: tf.clip_by_value(gradient, -threshold, threshold)
    if settings.clipping == "norm":
        return lambda gradient: _clip_each_weight(gradient, weights, threshold)
    return lambda gradient: _clip_adaptively(gradient, weights, threshold)


def sizes_of(weights: Sequence[Any]) -> list[int]:
    """Return the number of elements of each weight."""
    return [math.prod(weight.shape) for weight in weights]


def _clip_each_weight(gradient: Any, weights: Sequence[Any], threshold: float) -> Any:
    parts = tf.split(gradient, sizes_of(weights))
    norms = tf.sqrt(2 * tf.stack([tf.nn.l2_loss(part) for part in parts]))
    factors = tf.unstack(threshold / tf.maximum(norms, threshold))
    return tf.concat([part * factor for part, factor in zip(parts, factors, strict=True)], axis=0)


def _clip_adaptively(gradient: Any, weights: Sequence[Any], threshold: float) -> Any:
    """Limit the norm of each unit's gradient to a share of the norm of its weights: Brock et al. 2021, equation 3.

    A unit is all weights of one output, on Keras's last axis; a vector (biases, scales) is one unit, as in the authors'
    code. The last layer is not clipped, as they found best (section 4.2).
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
    limit, norms = threshold * tf.maximum(_norms(own), SMALLEST_WEIGHT_NORM), _norms(rows)
    factors = tf.split(limit / tf.maximum(norms, limit), units)
    for number, part, factor in zip(clipped, rows, factors, strict=True):
        parts[number] = tf.reshape(part * factor, [-1])
    return tf.concat(parts, axis=0)


def _is_of_last_layer(weight: Any, weights: Sequence[Any]) -> bool:
    """Whether the weight belongs to the output layer; a single weight does not."""
    layer, last = (variable.path.rpartition("/")[0] for variable in (weight, weights[-1]))
    return bool(layer) and layer == last


def _norms(rows: Sequence[Any]) -> Any:
    """Return the norms of the columns of all matrices as one vector."""
    return tf.sqrt(tf.concat([tf.reduce_sum(tf.square(matrix), axis=0) for matrix in rows], axis=0))
