"""The model that is trained: a network with training and evaluation steps that are exact on any number of replicas.

Guarantees: replicas and micro-batches train as one device does with the same global batch: the loss is the mean over
the global batch, and gradients are summed before they are judged, clipped and applied. A step whose loss or gradient
is not finite changes nothing and is counted. The evaluation is exact for any number of images. Validation and test
losses are the plain cross-entropy, so that trials with different label smoothing and penalties can be compared.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.training.memory.recompute import Rematerialised, rematerialised
from mloptimizer.training.step.optimizers import flatten_gradients
from mloptimizer.training.step.stability import StepGuard

_STEP_DONE = {"steps": 1}  # a step of Keras must return something


@dataclass(frozen=True)
class Objectives:
    """What defines the loss and the metrics of a model."""

    classes: int
    top_k: int
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class StepOptions:
    """How a training step is computed; none of it changes the result."""

    per_epoch: int = 1  # steps
    per_execution: int = 1  # steps per call
    accumulation_steps: int = 1  # micro-batches, one after the other, which must divide a replica's images
    remat: bool = False
    xla: bool = False
    deterministic: bool = False  # TensorFlow then refuses its own clock
    prepare: Callable[..., tuple[Any, Any]] | None = None  # makes images and targets of an element of the pipeline


class TrainableModel(keras.Model):
    """A network whose outputs are logits of shape (batch, classes), with its steps and its running means.

    With XLA, one replica compiles its whole step; of several, each compiles its forward and backward passes, as XLA
    cannot compile the sum over the replicas.
    """

    train_function: Any  # Keras's, None until it is made
    test_function: Any

    def __init__(self, network: Any, objectives: Objectives, options: StepOptions | None = None) -> None:
        """Share the network's layers; make it in the scope of the strategy."""
        super().__init__(inputs=network.inputs[0], outputs=network.outputs[0])
        self.objectives = objectives
        self.options = options or StepOptions()
        self.guard = StepGuard()
        # A variable, so that trials with other values share XLA's compiled code.
        self._smoothing = tf.Variable(self.objectives.label_smoothing, trainable=False, name="label_smoothing")
        names = ("loss", "accuracy", "top_k_accuracy")
        self.means = [keras.metrics.Mean(name, dtype="float32") for name in names]
        self.steps_run = 0  # of the training, skipped ones included
        self.seconds_waited = 0.0  # for batches
        self._steps_evaluated, self._evaluation_steps = 0, 1
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._forward = rematerialised(network) if self.options.remat else lambda images: self(images, training=True)
        self._gradient = _compiled(self._sum_micro_batches) if self.options.xla and replicas > 1 else None

    @property
    def recomputed(self) -> int:
        """How many segments of the network are recomputed in the backward pass."""
        return self._forward.recomputed if isinstance(self._forward, Rematerialised) else 0

    # Steps, on one replica

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on one element of the pipeline; `read_metrics` and `guard` hold the metrics."""
        statistics = [weight.value for weight in self.non_trainable_weights if weight.dtype.startswith("float")]
        before = [tf.identity(value) for value in statistics]
        gradient, sums = (self._gradient or self._sum_micro_batches)(data)
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradient = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        # The loss comes last: where it is not finite on any replica, neither is the sum, and all skip the step.
        finite = self.guard.judge(gradient, self.optimizer.dynamic_scale if scaled else 1.0)

        def apply() -> None:
            if not scaled:
                self.optimizer.apply([gradient[:-1]])

        def restore() -> None:  # the forward pass may have spoiled the statistics of the normalisations
            for value, old in zip(statistics, before, strict=True):
                value.assign(old)

        if scaled:
            # It skips a gradient that is not finite, and lowers the loss scale; it does not see the loss.
            self.optimizer.apply([tf.where(finite, gradient[:-1], float("nan"))])
        tf.cond(finite, apply, restore)
        self._count_sums(sums, finite)
        return dict(_STEP_DONE)

    def _sum_micro_batches(self, data: Any) -> tuple[Any, Any]:
        """Return this replica's share of the gradient, followed by the loss, and the sums of its metrics."""
        parts = self.options.accumulation_steps
        if parts == 1:
            return self._find_gradient(data)
        # each as (parts, images of a micro-batch, …)
        stacked = tf.nest.map_structure(lambda part: tf.reshape(part, (parts, -1, *part.shape[1:])), data)

        def add(index: Any, gradient: Any, sums: Any) -> tuple[Any, Any, Any]:
            more = self._find_gradient(tf.nest.map_structure(lambda part: part[index], stacked))
            return index + 1, gradient + more[0], sums + more[1]

        size = sum(weight.value.shape.num_elements() for weight in self.trainable_variables) + 1
        start = (tf.constant(0), tf.zeros(size), tf.zeros(4))
        # One after the other, so that the activations of one micro-batch are freed before those of the next.
        _, gradient, sums = tf.while_loop(
            lambda index, *_: index < parts, add, start, parallel_iterations=1, maximum_iterations=parts
        )
        return gradient, sums

    def _find_gradient(self, data: Any) -> tuple[Any, Any]:
        images, targets = self.options.prepare(data) if self.options.prepare else data
        parts = tf.distribute.get_strategy().num_replicas_in_sync * self.options.accumulation_steps
        with tf.GradientTape() as tape:
            logits = tf.cast(self._forward(images), tf.float32)
            losses = self._training_losses(targets, logits)
            share = self.optimizer.scale_loss(tf.reduce_mean(losses) / parts)
        weights = self.trainable_variables
        gradients = tape.gradient(share, [weight.value for weight in weights])
        vector = tf.concat([flatten_gradients(gradients, weights), share[tf.newaxis]], axis=0)
        return vector, self._sum_metrics(losses, logits, tf.argmax(targets, axis=1, output_type=tf.int32))

    def _training_losses(self, targets: Any, logits: Any) -> Any:
        """Return each image's cross-entropy plus the network's penalties.

        The targets are smoothed as in section 7 of Szegedy et al. 2016.
        """
        smoothing = tf.identity(self._smoothing)
        smooth = targets * (1.0 - smoothing) + smoothing / self.objectives.classes
        losses = tf.nn.softmax_cross_entropy_with_logits(smooth, logits)
        return losses + tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses]) if self.losses else losses

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measure one (images, labels, weights) batch; `read_metrics` holds the metrics."""
        images, labels, weights = data
        logits = tf.cast(self(images, training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        losses = tf.where(weights > 0, losses, 0.0)
        self._count_sums(self._sum_metrics(losses, logits, labels, weights), True)
        return dict(_STEP_DONE)

    def _sum_metrics(self, losses: Any, logits: Any, labels: Any, weights: Any = None) -> Any:
        """Return the weighted sums of loss, hits and hits among the best k, and the weight, as one vector."""
        # top_k breaks ties by position; a comparison of values would call a network with constant outputs right.
        best = tf.math.top_k(logits, k=self.objectives.top_k).indices
        # As int64: a GPU leaves the comparison of int32 to the host.
        hits = tf.cast(tf.cast(best, tf.int64) == tf.cast(labels, tf.int64)[:, tf.newaxis], tf.float32)
        rows = tf.stack([losses, hits[:, 0], tf.reduce_max(hits, axis=1), tf.ones_like(losses)])
        return tf.reduce_sum(rows if weights is None else rows * weights, axis=1)

    def _count_sums(self, sums: Any, counts: Any) -> None:
        """Add the sums to the means, unless the step was skipped."""
        weight = tf.where(counts, sums[3], 0.0)
        for mean, total in zip(self.means, tf.unstack(sums[:3]), strict=True):
            mean.update_state(tf.where(weight > 0, tf.math.divide_no_nan(total, sums[3]), 0.0), sample_weight=weight)

    # Loops over steps

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that Keras's loop calls: `per_execution` steps, fewer at the end of an epoch.

        It returns no logs, which Keras would fetch from the GPU every step.
        """
        if self.train_function is None or force:
            one_replica = self.distribute_strategy.num_replicas_in_sync == 1
            step = _compiled(self.train_step) if self.options.xla and one_replica else self.train_step
            loop = _make_loop(self.distribute_strategy, step, self.options.deterministic)

            def train(iterator: Any) -> dict[str, Any]:
                count = self._next_steps(self.steps_run, self.options.per_epoch)
                self.seconds_waited += float(loop(iterator, count))
                self.steps_run += count
                return {}

            self.train_function = train
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that Keras's evaluation calls; it returns no logs either."""
        if self.test_function is None or force:
            loop = _make_loop(self.distribute_strategy, self.test_step, self.options.deterministic)

            def test(iterator: Any) -> dict[str, Any]:
                count = self._next_steps(self._steps_evaluated, self._evaluation_steps)
                loop(iterator, count)
                self._steps_evaluated += count
                return {}

            self.test_function = test
        return self.test_function

    def _next_steps(self, done: int, per_round: int) -> int:
        """Return how many steps the next call runs: up to the end of the epoch, or of the evaluation."""
        return min(self.options.per_execution, per_round - done % per_round)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate `steps` batches as Keras does, after making the normalisation statistics equal on all replicas."""
        self._average_statistics()
        self._steps_evaluated, self._evaluation_steps = 0, kwargs["steps"]
        return super().evaluate(*args, **kwargs)

    def images_counted(self) -> float:
        """Return how many images the metrics are the means of."""
        return float(tf.convert_to_tensor(self.means[0].count.value))

    def read_metrics(self) -> dict[str, float]:
        """Return loss, accuracy and top-k accuracy since the last reset; NaN if no image counted."""
        return {mean.name: float(mean.result()) if self.images_counted() else float("nan") for mean in self.means}

    def _average_statistics(self) -> None:
        """Set the statistics, which each replica gathered from its own images, to their mean."""
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return
        for variable in self.non_trainable_variables:
            if variable.dtype.startswith("float"):
                local = strategy.experimental_local_results(variable.value)
                variable.value.assign(tf.reduce_mean(tf.stack([tf.identity(value) for value in local]), axis=0))


def _compiled(function: Callable[..., Any]) -> Any:
    return tf.function(function, jit_compile=True, autograph=False)


def _make_loop(strategy: Any, step: Callable[[Any], Any], deterministic: bool) -> Any:
    """Return a function of (iterator, count) that runs `count` steps and returns the seconds it waited for batches."""

    def now() -> Any:
        return tf.numpy_function(time.time, [], tf.float64) if deterministic else tf.timestamp()

    def run(iterator: Any) -> Any:
        started = now()
        with tf.control_dependencies([started]):
            data = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
            waited = now() - started
        strategy.run(step, args=(data,))
        return waited

    @tf.function(reduce_retracing=True, autograph=False)
    def run_several(iterator: Any, count: Any) -> Any:
        def body(index: Any, waited: Any) -> tuple[Any, Any]:
            return index + 1, waited + run(iterator)

        start = (tf.constant(0), tf.constant(0.0, tf.float64))
        return tf.while_loop(lambda index, _: index < count, body, start, parallel_iterations=1)[1]

    run_one = tf.function(run, reduce_retracing=True, autograph=False)

    return lambda iterator, count: run_one(iterator) if count == 1 else run_several(iterator, tf.constant(count))
