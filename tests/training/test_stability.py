"""Figures that are not finite: skipped steps, the way back, and where they come from."""

from dataclasses import replace
from typing import Any

import pytest

from mloptimizer.records import FailureKind, Outcome

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


def test_after_the_patience_the_trial_goes_back_and_learns_on_with_half_the_rate(
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


def test_a_validation_that_is_not_finite_is_never_the_best(make_training_plan: Any, completed: Any) -> None:
    source = BAD_STEPS_SPACE.replace(
        "if not training:\n                return x", "if training:\n                return x"
    )
    source = source.replace("self.step.assign_add(1.0)", "pass")
    plan = make_training_plan({}, epochs=2, space_source=source, params={"first": 0, "last": 10})
    failure = run_failure(plan, completed)
    assert "validation loss" in failure


def run_failure(plan: Any, completed: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        completed(plan)
    return str(caught.value)


def test_check_numerics_names_the_operation(make_bad_plan: Any, run: Any) -> None:
    failure = run(replace(make_bad_plan(2, 10_000, check_numerics=True), epochs=1)).result.failure
    assert failure.kind is FailureKind.NON_FINITE
    assert "Infinity or NaN" in failure.message
