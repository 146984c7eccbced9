"""Layers that cannot run twice with one result."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class Noisy(layers.Layer):
    """Draws without a seed generator."""

    def call(self, inputs: Any) -> Any:
        return inputs * tf.random.uniform(tf.shape(inputs))


class Penalised(layers.Layer):
    """Adds a loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs
