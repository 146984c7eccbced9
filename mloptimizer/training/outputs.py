"""Runs a new network on a few images to check that its outputs are logits that training can use.

Guarantees: no weight, seed, statistic or other variable of the network changes, nor any other source of random numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mloptimizer.training.keras_internals import all_layers

IMAGES = 8
SPREADS = (0, 1, 2, 4, 8, 100)  # sizes of random changes of the weights, in standard deviations of each
TOLERANCE = 0.01  # of outputs in half precision, and of their sums


def find_fault(network: Any) -> str:
    """Describe what is wrong with the network's outputs; empty if nothing is.

    Outputs that look wrong with the network's own weights (a last layer may start with zeros, a ReLU may give small
    numbers) count as wrong only if they do so with other weights too.
    """
    shape = (IMAGES, *network.inputs[0].shape[1:])
    random = np.random.default_rng(0)
    spread = np.linspace(0.25, 2, IMAGES).reshape(-1, *[1] * (len(shape) - 1))
    images = (random.normal(size=shape) * spread + random.normal(size=spread.shape)).astype("float32")
    passes: list[np.ndarray] = []
    fault = ""
    for factor in SPREADS:
        try:
            outputs = _run(network, images, factor)
        except Exception:  # noqa: BLE001  (a custom layer may need a graph, or more memory)
            return ""
        finite = np.isfinite(outputs).all(axis=1)
        if finite.sum() > 1:  # otherwise the training reports the layer
            passes.append(outputs[finite])
            fault = _judge(passes)
        if not fault:
            return ""
    return fault


def _run(network: Any, images: Any, factor: int) -> np.ndarray:
    """Return the outputs of the network with its trainable weights changed by the factor."""
    trained = [tf.convert_to_tensor(weight.value) for weight in network.trainable_variables]
    others = [tf.convert_to_tensor(weight.value) for weight in network.non_trainable_variables]
    if factor:
        trained = [_move(weight, factor, index) for index, weight in enumerate(trained)]
    own = list(_find_variables([vars(layer) for layer in all_layers(network)]))
    before = [variable.read_value() for variable in own]
    try:
        outputs, _ = network.stateless_call(trained, others, images, training=False)
    finally:
        for variable, value in zip(own, before, strict=True):
            variable.assign(value)
    return np.asarray(tf.cast(outputs, "float32"))


def _find_variables(value: Any) -> Iterator[Any]:
    """Yield the variables in layers' attributes that Keras does not know, and which a call may assign."""
    if isinstance(value, tf.Variable):
        yield value
    elif isinstance(value, tf.Module):
        yield from value.variables
    elif isinstance(value, (list, tuple, Mapping)):
        for item in [*value.values()] if isinstance(value, Mapping) else value:
            yield from _find_variables(item)


def _move(weight: Any, factor: int, seed: int) -> Any:
    deviation = tf.maximum(tf.math.reduce_std(tf.cast(weight, "float32")), 0.1)
    return weight + tf.cast(factor * deviation * tf.random.stateless_normal(weight.shape, (seed, factor)), weight.dtype)


def _judge(passes: list[np.ndarray]) -> str:
    rows = np.concatenate(passes)
    sums = rows.sum(axis=1)
    if all(np.ptp(outputs, axis=0).max() <= 1e-6 * np.abs(outputs).max() for outputs in passes):
        return "whose outputs do not depend on the images"
    total = abs(sums[0])
    if total > TOLERANCE and np.ptp(sums) <= TOLERANCE * total and np.ptp(rows) <= (1 + TOLERANCE) * total:
        return (
            f"whose outputs are probabilities: they always add up to {sums[0]:.3g}, as behind a softmax. "
            "Leave the softmax out: the outputs must be logits"
        )
    if rows.min() >= -TOLERANCE and rows.max() <= 1 + TOLERANCE:
        return (
            "whose outputs are probabilities: they always lie between 0 and 1, as behind a sigmoid. "
            "Leave it out: the outputs must be logits"
        )
    return ""
