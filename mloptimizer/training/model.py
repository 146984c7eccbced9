"""The model that is trained: a network with training and evaluation steps that are exact on any number of replicas.

Guarantees: several replicas train as one device does with the same global batch: the loss is the mean over the global
batch, and gradients are summed before they are clipped, checked for overflow and applied. The evaluation is exact for
any number of images. Validation and test losses are the plain cross-entropy, without label smoothing and penalties, so
that trials which differ in these can be compared.
"""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.training.optimizers import flatten_gradients

_STEP_DONE = {"steps": 1}  # a step of Keras must return something


@dataclass(frozen=True)
class Objectives:
    """What the model is trained for and measured by."""

    classes: int
    top_k: int
    label_smoothing: float = 0.0


class TrainableModel(keras.Model):
    """A network whose outputs are logits of shape (batch, classes), with its steps and its running means."""

    train_function: Any  # of Keras: None until it is made
    test_function: Any

    def __init__(self, network: Any, objectives: Objectives, compile_replica: bool = False) -> None:
        """Share the network's layers.

        Args:
            compile_replica: compile each replica's forward and backward pass with XLA, apart from the sum over the
                replicas, which XLA cannot compile.
        """
        super().__init__(inputs=network.inputs[0], outputs=network.outputs[0])
        self.objectives = objectives
        self.loss_mean = keras.metrics.Mean("loss", dtype="float32")
        self.accuracy_mean = keras.metrics.Mean("accuracy", dtype="float32")
        self.top_k_mean = keras.metrics.Mean("top_k_accuracy", dtype="float32")
        self._gradient = tf.function(self._find_gradient, jit_compile=True) if compile_replica else None

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on one (images, labels) batch; the figures are in `figures`."""
        images, labels = data
        losses, logits, gradient = (self._gradient or self._find_gradient)(images, labels)
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradient = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        self.optimizer.apply([gradient])
        self._count(losses, logits, labels, self._usable(losses))
        return dict(_STEP_DONE)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measure one (images, labels, weights) batch; the figures are in `figures`."""
        images, labels, weights = data
        logits = tf.cast(self(images, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self._count(losses, logits, labels, weights)
        return dict(_STEP_DONE)

    def make_train_function(self, force: bool = False) -> Any:
        """Make Keras's training function, without logs per step: reading them would wait for the GPU every step."""
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = _without_logs(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Make Keras's test function, without logs per step."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = _without_logs(self.test_function)
        return self.test_function

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Keras does, with the same statistics of the normalisations on every replica."""
        self._average_statistics()
        return super().evaluate(*args, **kwargs)

    def images_counted(self) -> float:
        """Return how many images the figures are the means of."""
        return float(tf.convert_to_tensor(self.loss_mean.count.value))

    def figures(self) -> dict[str, float]:
        """Return loss, accuracy and top-k accuracy since the last reset; NaN where no image counted."""
        means = (self.loss_mean, self.accuracy_mean, self.top_k_mean)
        return {mean.name: float(mean.result()) if self.images_counted() else float("nan") for mean in means}

    def _find_gradient(self, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        """Return each image's loss, the logits, and this replica's share of the (scaled) gradient, one vector."""
        with tf.GradientTape() as tape:
            logits = tf.cast(self(images, training=True), tf.float32)
            losses = self._training_losses(labels, logits)
            share = tf.reduce_mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(share)
        weights = self.trainable_variables
        gradients = tape.gradient(scaled, [weight.value for weight in weights])
        return losses, logits, flatten_gradients(gradients, weights)

    def _training_losses(self, labels: Any, logits: Any) -> Any:
        """Return each image's cross-entropy plus the network's penalties.

        The labels are smoothed as in section 7 of Szegedy et al. 2016.
        """
        rest = self.objectives.label_smoothing / self.objectives.classes
        hit = 1.0 - self.objectives.label_smoothing + rest
        targets = tf.one_hot(labels, self.objectives.classes, on_value=hit, off_value=rest)
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        return losses + tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses]) if self.losses else losses

    def _usable(self, losses: Any) -> Any:
        """Return which losses count: under loss scaling a step that overflowed was not made, and counts for nothing."""
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            return tf.ones_like(losses)
        return tf.cast(tf.math.is_finite(losses), tf.float32)

    def _count(self, losses: Any, logits: Any, labels: Any, weights: Any) -> None:
        # top_k breaks ties by position; comparing values instead would call a network with constant outputs right.
        best = tf.math.top_k(logits, k=self.objectives.top_k).indices
        hits = tf.cast(best == labels[:, tf.newaxis], tf.float32)
        self.loss_mean.update_state(tf.where(weights > 0, losses, 0.0), sample_weight=weights)
        self.accuracy_mean.update_state(hits[:, 0], sample_weight=weights)
        self.top_k_mean.update_state(tf.reduce_max(hits, axis=1), sample_weight=weights)

    def _average_statistics(self) -> None:
        """Set the replicas' statistics, which each gathered from its own images, to their mean."""
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return
        for variable in self.non_trainable_variables:
            if variable.dtype.startswith("float"):
                local = strategy.experimental_local_results(variable.value)
                variable.value.assign(tf.reduce_mean(tf.stack([tf.identity(value) for value in local]), axis=0))


def _without_logs(function: Any) -> Any:
    def step(iterator: Any) -> dict[str, Any]:
        function(iterator)
        return {}

    return step
