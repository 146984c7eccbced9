"""What a new model computes decides whether it is trained: its outputs must be logits that depend on the images."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from mloptimizer.training.outputs import find_fault


class Counter(layers.Layer):
    """Counts its calls in variables that Keras does not know."""

    def build(self, shape: Any) -> None:
        self.calls = tf.Variable(0.0, trainable=False)
        self.nested = {"calls": [tf.Variable(0.0, trainable=False)]}

    def call(self, inputs: Any) -> Any:
        for calls in (self.calls, *self.nested["calls"]):
            calls.assign_add(1.0)
        return inputs


class OwnSoftmax(layers.Layer):
    """A softmax inside a layer of one's own."""

    def call(self, inputs: Any) -> Any:
        return tf.nn.softmax(inputs)


def dense(**options: Any) -> Callable[[Any], Any]:
    def add(x: Any) -> Any:
        return layers.Dense(10, **options)(x)

    return add


def model_inside(x: Any) -> Any:
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, dense(activation="softmax")(inputs))(x)


def network(head: Callable[[Any], Any], dropout: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    x = layers.BatchNormalization()(layers.Dense(32, activation="relu")(layers.Flatten()(images)))
    return keras.Model(images, head(layers.Dropout(dropout)(x) if dropout else x))


PROBABILITIES: dict[str, Callable[[Any], Any]] = {
    "its activation": dense(activation="softmax"),
    "a layer": lambda x: layers.Softmax()(dense()(x)),
    "an operation": lambda x: ops.softmax(dense()(x)),
    "a callable": lambda x: layers.Activation(ops.softmax)(dense()(x)),
    "a model inside": model_inside,
    "a linear activation behind": lambda x: layers.Activation("linear")(dense(activation="softmax")(x)),
    "a layer of one's own": lambda x: OwnSoftmax()(dense()(x)),
    "zeros before": dense(activation="softmax", kernel_initializer="zeros"),
    "another scale": lambda x: 10 * ops.softmax(dense()(x)),
    "half precision": lambda x: layers.Softmax(dtype="float16")(dense()(x)),
    "sigmoid": dense(activation="sigmoid"),
    "sigmoid of zeros": dense(activation="sigmoid", kernel_initializer="zeros"),
    "sigmoid operation": lambda x: ops.sigmoid(dense()(x)),
}
LOGITS: dict[str, Callable[[Any], Any]] = {
    "a dense layer": dense(),
    "a last layer of zeros": dense(kernel_initializer="zeros"),
    "zeros and a prior": dense(kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.1)),
    "relu": dense(activation="relu"),
    "a small relu": lambda x: ops.relu(0.01 * dense()(x)),
    "tanh": dense(activation="tanh"),
    "log_softmax": dense(activation="log_softmax"),
    "of length one": lambda x: layers.UnitNormalization()(dense()(x)),
    "what adds up to one": lambda x: ops.concatenate([1 - (z := layers.Dense(1)(x)), *[z - z] * 8, z]),
    "half precision": dense(dtype="float16"),
}


@pytest.mark.parametrize("head", PROBABILITIES.values(), ids=PROBABILITIES.keys())
def test_probabilities_are_found_however_they_are_written(head: Callable[[Any], Any]) -> None:
    assert "probabilities" in find_fault(network(head))


@pytest.mark.parametrize("head", LOGITS.values(), ids=LOGITS.keys())
def test_logits_are_left_alone(head: Callable[[Any], Any]) -> None:
    assert find_fault(network(head)) == ""


def test_outputs_that_nothing_can_be_learned_from() -> None:
    assert "do not depend" in find_fault(network(lambda x: dense()(ops.zeros_like(x))))


def test_outputs_that_are_not_finite_are_left_to_the_training_which_names_the_layer() -> None:
    assert find_fault(network(lambda x: ops.log(-ops.exp(dense()(x))))) == ""


def test_the_replicas_of_a_strategy_are_checked_as_one_model() -> None:
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        assert "probabilities" in find_fault(network(PROBABILITIES["an operation"]))
        assert find_fault(network(dense())) == ""


def test_the_check_changes_no_weight_no_seed_and_no_variable() -> None:
    model = network(lambda x: ops.softmax(dense()(layers.Dropout(0.5)(x, training=True))), dropout=0.5)
    before, drawn = [weight.numpy() for weight in model.variables], np.random.get_state()[2]
    assert find_fault(model)
    for weight, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert np.random.get_state()[2] == drawn
    counter = Counter()
    find_fault(network(lambda x: dense()(counter(x))))
    assert counter.calls.numpy() == counter.nested["calls"][0].numpy() == 0
