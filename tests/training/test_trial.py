"""A trial from its plan to its result."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.core.nouns import Outcome, Phase

EPOCH_FIGURES = {
    "loss",
    "accuracy",
    "top_k_accuracy",
    "val_loss",
    "val_accuracy",
    "val_top_k_accuracy",
    "learning_rate",
    "images_per_second",
    "data_wait_percent",
    "gradient_norm",
    "skipped_steps",
}


def test_every_epoch_has_all_metrics(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan(epochs=3))
    assert [epoch.epoch for epoch in done.epochs] == [1, 2, 3]
    assert all(set(epoch.metrics) == EPOCH_FIGURES and epoch.number == 7 for epoch in done.epochs)
    assert all(math.isfinite(value) for epoch in done.epochs for value in epoch.metrics.values())


FADING_SPACE = '''
def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras
    from keras import layers

    class Fading(layers.Layer):
        """Gives zeros after twelve training steps."""

        def build(self, shape):
            self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=False):
            if training:
                self.steps.assign_add(1.0)
            return x * keras.ops.cast(self.steps < 12, "float32")

    images = keras.Input(dataset.input_shape)
    return keras.Model(images, Fading()(layers.Dense(dataset.classes)(layers.Flatten()(images))))
'''


def test_the_result_is_the_best_epoch_and_its_weights_are_on_the_disk(
    make_training_plan: Any, completed: Any, validate: Any
) -> None:
    plan = make_training_plan(epochs=4, space_source=FADING_SPACE, params={"learning_rate": 0.01})
    done = completed(plan)  # five steps an epoch: the third and fourth epoch end at chance
    accuracies = done.curve("val_accuracy")
    assert done.result.value == max(accuracies) > 3 * accuracies[-1]
    assert done.result.metrics == done.epochs[accuracies.index(max(accuracies))].metrics
    assert validate(plan, done.result.weights)["loss"] == pytest.approx(done.result.metrics["val_loss"], abs=1e-5)


def test_nothing_but_the_weights_and_checkpoints_is_left_in_the_folder(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=1)
    completed(plan)
    assert sorted(path.name for path in Path(plan.directory).iterdir()) == ["checkpoints", "model.weights.h5"]


def test_the_timings_add_up(make_training_plan: Any, completed: Any) -> None:
    result = completed(make_training_plan(epochs=1)).result
    of_fit = {"first_step", "training", "validation", "checkpoint"}
    assert set(result.timings) == {"setup", "build", "fit", "save", "total"} | of_fit
    assert all(result.timings[part] > 0 for part in of_fit)
    assert sum(result.timings[part] for part in of_fit) < result.timings["fit"]
    parts = sum(result.timings[part] for part in ("setup", "build", "fit", "save"))
    assert 0.9 * result.seconds < parts <= result.timings["total"] == result.seconds


def test_patience_ends_a_training_that_does_not_improve(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan(epochs=9, patience=2, params={"learning_rate": 0.0}))
    assert len(done.epochs) == 3
    assert done.result.metrics == done.epochs[0].metrics


def test_a_loss_is_minimised(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan({"objective": "val_loss"}, params={"learning_rate": 0.01}))
    assert done.result.value == min(done.curve("val_loss"))


@pytest.mark.slow
def test_two_runs_of_a_plan_give_the_same_metrics(make_training_plan: Any, completed: Any) -> None:
    first, second = (completed(make_training_plan(seed=5)) for _ in range(2))
    other = completed(make_training_plan(seed=6))
    for metric in EPOCH_FIGURES - {"images_per_second", "data_wait_percent"}:
        assert first.curve(metric) == second.curve(metric), metric
    assert first.curve("val_loss") != other.curve("val_loss")


@pytest.mark.slow
def test_a_warm_start_starts_from_its_weights(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=8, params={"learning_rate": 0.01})
    start = completed(plan).result
    warm = completed(replace(plan, phase=Phase.HALL_OF_FAME, epochs=1, initial_weights=start.weights))
    assert warm.epochs[0].metrics["loss"] < 2 * start.metrics["loss"]


@pytest.mark.slow
def test_a_warm_start_that_gets_worse_returns_its_initial_weights(
    make_training_plan: Any, completed: Any, validate: Any
) -> None:
    plan = make_training_plan(epochs=8, params={"learning_rate": 0.01})
    start = completed(plan).result
    ruin = {"optimizer": "lion", "learning_rate": 10.0}
    warm = completed(
        replace(plan, epochs=2, params=ruin, initial_weights=start.weights, directory=f"{plan.directory}-2")
    )
    assert max(warm.curve("val_accuracy")) < start.value == warm.result.value
    assert set(warm.result.metrics) == {"val_loss", "val_accuracy", "val_top_k_accuracy"}
    assert validate(plan, warm.result.weights)["loss"] == pytest.approx(start.metrics["val_loss"], abs=1e-5)


def test_a_trial_that_is_asked_to_stop_ends_within_the_epoch(make_training_plan: Any, run: Any) -> None:
    answers = iter([False, False, True])
    plan = make_training_plan({"batch_size": 16})
    done = run(plan, lambda: next(answers))
    assert (done.result.outcome, done.result.value, done.epochs) == (Outcome.PRUNED, None, [])
    assert not Path(plan.directory).exists()


def test_the_test_evaluation_reads_the_test_set(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=8, params={"learning_rate": 0.01})
    start = completed(plan).result
    done = completed(replace(plan, phase=Phase.TEST_EVALUATION, initial_weights=start.weights))
    assert set(done.result.metrics) == {"test_loss", "test_accuracy", "test_top_k_accuracy"}
    assert done.result.value == done.result.metrics["test_accuracy"] == pytest.approx(start.value, abs=0.2)
    assert round(done.result.value * plan.dataset.test_size, 3).is_integer()
    assert done.epochs == []


def test_the_test_evaluation_leaves_the_training_images_alone(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=1)
    start = completed(plan).result
    done = completed(replace(plan, phase=Phase.TEST_EVALUATION, initial_weights=start.weights))
    assert [event.choice for event in done.events if getattr(event, "topic", "") == "cache"] == ["test in memory"]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.slow
def test_xla_changes_no_metric(make_training_plan: Any, completed: Any, replicas: int) -> None:
    plain, compiled = (
        completed(make_training_plan({"xla": xla, "cpu_replicas": replicas, "batch_size": 32})) for xla in ("off", "on")
    )
    assert compiled.decision("XLA").choice == "on"
    assert compiled.curve("val_loss") == pytest.approx(plain.curve("val_loss"), abs=1e-4)


PYTHON_LAYER = """
def build(params, dataset):
    import keras
    import tensorflow as tf

    class Python(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(lambda y: 2.0 * y, [x], tf.float32), x.shape)

        def compute_output_shape(self, shape):
            return shape

    images = keras.Input(dataset.input_shape)
    return keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(Python()(images))))


def sample(trial, dataset):
    return {}
"""


@pytest.mark.slow
def test_a_model_that_xla_cannot_compile_is_trained_without(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan({"xla": "on"}, space_source=PYTHON_LAYER))
    assert done.decision("XLA").choice == "off"
    assert "compiling failed" in done.decision("XLA").reason
    assert len(done.epochs) == 2


def test_half_precision_trains(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan({"precision": "mixed_float16"}, epochs=1))
    assert done.decision("precision").choice == "mixed_float16"
    assert done.curve("loss")[0] < 4


SYNCHRONIZED = "BatchNormalization(synchronized=True, momentum=0.8, name='norm')"


@pytest.mark.parametrize("tuned", [(), ("xla",)])
@pytest.mark.slow
def test_only_xla_on_is_refused_for_a_network_that_cannot_be_compiled(
    make_training_plan: Any, run: Any, tuned: tuple[str, ...]
) -> None:
    plan = make_training_plan({"xla": "on", "cpu_replicas": 2, "batch_size": 32}, tuned=tuned)
    done = run(replace(plan, space_source=plan.space_source.replace("LayerNormalization()", SYNCHRONIZED)))
    if tuned:
        assert done.result.outcome is Outcome.COMPLETED
        assert done.decision("XLA").choice == "off"
    else:
        assert done.result.failure.message.startswith("xla = on: layer 'norm' ")
