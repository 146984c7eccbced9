"""The steps of a training, and the learning rate of each."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.nouns import Objective
from mloptimizer.training.memory.batch_plan import plan_batch
from mloptimizer.training.step.schedule import (
    Plateau,
    Steps,
    learning_rate_schedule,
    plan_learning_rate,
    plan_plateau,
    plan_steps,
)


def planned(plan: Any, replicas: int = 1, **more: Any) -> tuple[Steps, dict[str, tuple[str, str]]]:
    """Returns the steps, and choice and reason of every decision by its topic."""
    decisions: dict[str, tuple[str, str]] = {}
    batch = plan_batch(plan.settings, plan.dataset.train_size, replicas, **more)
    steps = plan_steps(plan, batch, lambda topic, *choice: decisions.update({topic: choice}))
    return steps, decisions


def rates(name: str, total: int, warmup: int) -> list[float]:
    rate = learning_rate_schedule(name, 1.0, total, warmup)
    return [float(rate(step)) for step in range(total + 1)]


# --- steps


@pytest.mark.parametrize(
    ("settings", "replicas", "batch", "scale"),
    [
        ({}, 1, 64, 1.0),
        ({"batch_size": 16}, 4, 128, 8.0),
        ({"batch_size": 16, "batch_size_multiplier": 3}, 2, 96, 6.0),
        ({"batch_size": 500}, 3, 318, 318 / 500),  # 320 training images
        ({"batch_size": 16, "learning_rate_scaling": "sqrt"}, 4, 128, 8.0**0.5),
        ({"batch_size": 16, "learning_rate_scaling": "none"}, 4, 128, 1.0),
    ],
)
def test_the_learning_rate_grows_with_the_global_batch(
    make_training_plan: Any, settings: dict[str, Any], replicas: int, batch: int, scale: float
) -> None:
    steps, decisions = planned(make_training_plan(settings), replicas)
    assert (steps.global_batch, steps.per_epoch, steps.total) == (batch, 320 // batch, 320 // batch * 2)
    assert steps.learning_rate_scale == pytest.approx(scale)
    assert float(decisions["learning-rate scale"][0]) == pytest.approx(scale, rel=1e-5)


def test_an_automatic_batch_counts_from_64(make_training_plan: Any) -> None:
    steps, decisions = planned(make_training_plan({"batch_size": "auto"}), per_replica=128)
    assert (steps.global_batch, steps.learning_rate_scale) == (128, 2.0)
    assert decisions["global batch"] == ("128", "128 images per replica × 1 replicas")


def test_the_decision_says_that_a_batch_is_limited_by_the_images(make_training_plan: Any) -> None:
    _, decisions = planned(make_training_plan({"batch_size": 500}), 3)
    reason = "batch_size 500 × multiplier 2 × 3 replicas = 3000, but only 320 images"
    assert decisions["global batch"] == ("318", reason)


def test_micro_batches_are_a_decision_where_there_are_several(make_training_plan: Any) -> None:
    _, decisions = planned(make_training_plan(), accumulation_steps=4)
    assert decisions["accumulation"] == ("4", "4 micro-batches of 16 images × 1 replicas")
    assert "accumulation" not in planned(make_training_plan())[1]


@pytest.mark.parametrize(("limit", "per_epoch"), [(0, 5), (2, 2), (50, 5)])
def test_a_plan_may_limit_the_steps_of_an_epoch(make_training_plan: Any, limit: int, per_epoch: int) -> None:
    steps, _ = planned(make_training_plan(steps_per_epoch=limit))
    assert (steps.per_epoch, steps.total) == (per_epoch, 2 * per_epoch)


# --- learning rate


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    found = rates("cosine", 110, 10)
    assert found[0] == pytest.approx(0.1)
    assert np.diff(found[:11]) == pytest.approx(np.diff(found[:11])[0])
    assert [found[10], found[60], found[110]] == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)


def test_one_cycle_rises_for_three_tenths_of_the_steps() -> None:
    found = rates("one_cycle", 100, 10)
    assert [found[0], found[15], found[30]] == pytest.approx([0.04, 0.52, 1.0])
    assert [found[65], found[100]] == pytest.approx([(1 + 1e-4) / 2, 1e-4], rel=1e-4)
    assert int(np.argmax(found)) == 30


def test_step_falls_to_a_tenth_at_the_half_and_again_at_three_quarters() -> None:
    found = rates("step", 100, 20)
    assert found[:21] == pytest.approx(rates("cosine", 100, 20)[:21])
    assert [found[49], found[50], found[74], found[75], found[99]] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_step_is_the_piecewise_constant_schedule_of_keras_after_the_warm_up() -> None:
    reference = keras.optimizers.schedules.PiecewiseConstantDecay([49, 74], [1.0, 0.1, 0.01])
    assert rates("step", 100, 0) == pytest.approx([float(reference(step)) for step in range(101)])


def test_plateau_stays_at_its_peak_after_the_warm_up() -> None:
    found = rates("plateau", 40, 10)
    assert found[:11] == pytest.approx(rates("cosine", 40, 10)[:11])
    assert found[10:] == pytest.approx([1.0] * 31)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_training_has_a_learning_rate(name: str, total: int) -> None:
    found = rates(name, total, round(total / 3))
    assert max(found) == pytest.approx(1.0)
    assert min(found) >= -1e-7


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step", "plateau"])
def test_a_compiled_step_has_the_same_learning_rate(name: str) -> None:
    rate = learning_rate_schedule(name, 0.1, 20, 4)
    compiled = tf.function(rate, jit_compile=True, autograph=False)
    for step in (0, 3, 4, 10, 15, 19):
        assert float(compiled(tf.constant(step, tf.int64))) == pytest.approx(float(rate(step)), rel=1e-5)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(100, 30), (6, 20)])
def test_the_warm_up_is_a_third_of_the_training_at_most(
    make_training_plan: Any, epochs: int, warmup_steps: int
) -> None:
    plan = make_training_plan({"warmup_epochs": 3}, epochs=epochs, params={"learning_rate": 0.5})
    rate = plan_learning_rate(plan, Steps(32, 10, 10 * epochs, 2.0))
    assert np.argmax([float(rate(step)) for step in range(10 * epochs)]) == warmup_steps
    assert float(rate(warmup_steps)) == pytest.approx(1.0)


def test_a_schedule_of_the_search_space_beats_the_setting(make_training_plan: Any) -> None:
    plan = make_training_plan({"schedule": "step"}, params={"schedule": "one_cycle", "learning_rate": 1.0})
    steps, decisions = planned(plan)
    assert decisions["schedule"][0] == "one_cycle"
    assert "warmup_epochs is not used" in decisions["schedule"][1]
    assert float(plan_learning_rate(plan, steps)(0)) == pytest.approx(0.04)


# --- plateau


def factors(rule: Plateau, values: list[float]) -> list[float | None]:
    return [rule.update(value) for value in values]


def test_a_plateau_halves_the_rate_each_time() -> None:
    found = factors(Plateau(Objective("val_accuracy"), 2), [0.5, 0.5, 0.5, 0.4, 0.3, 0.6, 0.6])
    assert found == [None, None, 0.5, None, 0.5, None, None]


def test_a_loss_is_better_if_it_falls_and_never_if_it_is_nan() -> None:
    rule = Plateau(Objective("val_loss"), 1)
    assert factors(rule, [0.5, 0.4, float("nan"), 0.3]) == [None, None, 0.5, None]


def test_epochs_of_the_warm_up_are_no_plateau() -> None:
    rule = Plateau(Objective("val_accuracy"), 1, warmup_epochs=2.5)
    assert factors(rule, [0.5, 0.5, 0.5, 0.5]) == [None, None, None, 0.5]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 1), (2, 1), (10, 5)])
def test_a_plateau_lasts_half_of_the_patience(make_training_plan: Any, patience: int, epochs: int) -> None:
    plan = make_training_plan({"schedule": "plateau", "warmup_epochs": 0}, patience=patience)
    rule = plan_plateau(plan)
    assert factors(rule, [0.5] * (epochs + 1)) == [None] * epochs + [0.5]


def test_other_schedules_have_no_plateau(make_training_plan: Any) -> None:
    plan = make_training_plan()
    assert plan_plateau(plan) is None
