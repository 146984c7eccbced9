"""Values that are not finite: skipped steps, the way back, and where they come from."""

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.nouns import FailureKind, Outcome
from mloptimizer.training.step.stability import find_bad_layer

pytestmark = pytest.mark.slow

# A layer that gives NaN in some training steps, counted from 0.
BAD_STEPS_SPACE = """
def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras
    import tensorflow as tf
    from keras import layers, ops

    class Bad(layers.Layer):
        def build(self, shape):
            self.step = tf.Variable(0.0, trainable=False)  # no weight, so that going back does not change it

        def call(self, x, training=False):
            if not training:
                return x
            bad = (self.step >= params["first"]) & (self.step < params["last"])
            self.step.assign_add(1.0)
            return x + ops.where(bad, float("nan"), 0.0)

    images = keras.Input(dataset.input_shape)
    x = layers.Dense(16, activation="gelu", name="before")(layers.Flatten()(images))
    return keras.Model(images, layers.Dense(dataset.classes, name="logits")(Bad(name="bad")(x)))
"""


@pytest.fixture
def make_bad_plan(make_training_plan: Any) -> Any:
    """Returns a plan of four epochs of five steps, of which those from first to before last are bad."""

    def make(first: int, last: int, **settings: Any) -> Any:
        params = {"first": first, "last": last, "learning_rate": 0.01}
        return make_training_plan(settings, epochs=4, space_source=BAD_STEPS_SPACE, params=params)

    return make


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_that_is_not_finite_is_skipped_and_counted(make_bad_plan: Any, completed: Any, replicas: int) -> None:
    batch = 64 // replicas
    done = completed(make_bad_plan(6, 8, cpu_replicas=replicas, batch_size=batch, batch_size_multiplier=1))
    assert done.curve("skipped_steps") == [0, 2, 0, 0]
    assert done.curve("val_accuracy")[-1] > 0.5
    assert all(norm > 0 for norm in done.curve("gradient_norm"))


def test_after_the_patience_the_trial_goes_back_and_continues_with_half_the_rate(
    make_bad_plan: Any, completed: Any
) -> None:
    done = completed(make_bad_plan(8, 10, nan_patience=2, schedule="plateau"))
    assert done.decision("stability").choice == "back to the last good weights, half the learning rate"
    assert "2 steps from step 9 on" in done.decision("stability").reason
    assert done.result.outcome is Outcome.COMPLETED
    assert done.curve("learning_rate")[1:] == pytest.approx([0.005] * 3)


def test_a_trial_that_does_not_recover_names_step_layer_and_norms(make_bad_plan: Any, run: Any) -> None:
    failure = run(make_bad_plan(7, 10_000, nan_patience=3, nan_retries=1)).result.failure
    assert failure.kind is FailureKind.NON_FINITE
    for words in ("after going back 1 times", "the first output that is not finite is that of 'bad' (Bad)", "nan"):
        assert words in failure.message
    assert "last gradient norms: " in failure.message


@pytest.mark.parametrize(
    "settings", [{}, {"cpu_replicas": 2, "batch_size": 32, "batch_size_multiplier": 1}, {"xla": "on"}]
)
def test_a_skipped_step_leaves_the_statistics_of_normalisations_as_they_were(
    make_bad_plan: Any, completed: Any, settings: dict[str, Any]
) -> None:
    plan = make_bad_plan(6, 7, nan_patience=3, nan_retries=0, **settings)
    source = plan.space_source.replace('name="bad")(x)', 'name="bad")(x))').replace(
        'layers.Dense(dataset.classes, name="logits")(', 'layers.Dense(dataset.classes, name="logits")(normalize('
    )
    source = source.replace("    images =", "    normalize = layers.BatchNormalization(momentum=0.5)\n    images =")
    done = completed(replace(plan, space_source=source))
    assert done.curve("skipped_steps") == [0, 1, 0, 0]
    assert done.curve("val_accuracy")[-1] > 0.5


# A layer that gives NaN in the validations from first to before last, counted from 0; each has two batches.
BAD_VALIDATION_SPACE = BAD_STEPS_SPACE.replace("if not training", "if training")


def test_after_a_validation_that_is_not_finite_the_trial_goes_back(make_training_plan: Any, completed: Any) -> None:
    params = {"first": 2, "last": 4, "learning_rate": 0.01}
    settings = {"schedule": "plateau", "batch_size": 16}
    plan = make_training_plan(settings, epochs=4, space_source=BAD_VALIDATION_SPACE, params=params)
    done = completed(plan)
    accuracies = done.curve("val_accuracy")
    assert [math.isnan(accuracy) for accuracy in accuracies] == [False, True, False, False]
    assert "epoch 2 " in done.decision("stability").reason
    assert done.curve("learning_rate")[2:] == pytest.approx([0.005] * 2)
    assert done.result.value == max(accuracies[0], *accuracies[2:])


def test_a_validation_that_stays_bad_fails_the_trial(make_training_plan: Any, run: Any) -> None:
    params = {"first": 0, "last": 10_000}
    plan = make_training_plan({"nan_retries": 1}, epochs=4, space_source=BAD_VALIDATION_SPACE, params=params)
    failure = run(plan).result.failure
    assert failure.kind is FailureKind.NON_FINITE
    assert "the validation loss of epoch 2 is not finite after going back 1 times" in failure.message


def test_the_bad_image_is_found_wherever_it_is() -> None:
    images = keras.Input((2,))
    network = keras.Model(images, keras.layers.Lambda(tf.math.log, name="log")(images))
    values = np.ones((20, 2), "float32")
    assert find_bad_layer(network, tf.constant(values)).startswith("every layer's output is finite")
    values[17, 1] = -1
    assert "that of 'log' (Lambda)" in find_bad_layer(network, tf.constant(values))


def test_weights_that_are_not_finite_are_named() -> None:
    network = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="norm")])
    network.layers[0].moving_mean.assign(np.array([np.nan, 0.0], "float32"))
    assert "norm/moving_mean' are not finite" in find_bad_layer(network, tf.ones((4, 2)))


def test_check_numerics_trains_where_nothing_is_wrong(make_training_plan: Any, completed: Any) -> None:
    settings = {"check_numerics": True, "cpu_replicas": 4, "batch_size": 1, "train_limit": 0}
    done = completed(make_training_plan({**settings, "batch_size_multiplier": 1}, epochs=1, steps_per_epoch=2))
    assert done.decision("precision").choice == "float32"


def test_check_numerics_names_the_operation(make_bad_plan: Any, run: Any) -> None:
    failure = run(replace(make_bad_plan(2, 10_000, check_numerics=True), epochs=1)).result.failure
    assert failure.kind is FailureKind.NON_FINITE
    assert "Infinity or NaN" in failure.message
