"""The optimizers and the clipping give what Keras's and TensorFlow's own give, on any number of replicas."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Slot
from mloptimizer.spaces.space_files import LEARNING_RATES
from mloptimizer.spaces.training_values import check_training_values
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.step.clipping import make_clip
from mloptimizer.training.step.optimizers import UPDATE_RULES, flat_optimizer, flatten_gradients, make_optimizer

START = [np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3), np.ones(3, "float32")]
NAMES = ("adamw", "sgd", "lion")


def settings_of(**values: Any) -> Settings:
    return Settings.model_validate(values)


def start_weights() -> list[Any]:
    return [keras.Variable(value) for value in START]


def random_gradients(count: int, weights: Sequence[Any] = START, scale: float = 1.0) -> list[list[Any]]:
    random = np.random.default_rng(0)
    return [[tf.constant(scale * random.normal(size=w.shape), tf.float32) for w in weights] for _ in range(count)]


# --- clipping


def clipped(weights: Sequence[Any], gradients: Sequence[Any], **settings: Any) -> list[Any]:
    flat = make_clip(settings_of(**settings), weights)(flatten_gradients(gradients, weights))
    sizes = [int(np.prod(weight.shape)) for weight in weights]
    return [part.numpy().reshape(weight.shape) for part, weight in zip(tf.split(flat, sizes), weights, strict=True)]


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"clipping": "global_norm"}, lambda gradients: tf.clip_by_global_norm(gradients, 1.0)[0]),
        ({"clipping": "norm"}, lambda gradients: [tf.clip_by_norm(part, 1.0) for part in gradients]),
        ({"clipping": "value"}, lambda gradients: [tf.clip_by_value(part, -0.5, 0.5) for part in gradients]),
        ({"clipping": "norm", "clip_threshold": 0.2}, lambda gradients: [tf.clip_by_norm(x, 0.2) for x in gradients]),
        ({"clipping": "off"}, list),
    ],
)
@pytest.mark.parametrize("scale", [0.1, 10.0, 0.0])
def test_gradients_are_clipped_as_tensorflow_does(settings: Any, reference: Callable[..., Any], scale: float) -> None:
    weights = start_weights()
    (gradients,) = random_gradients(1, weights, scale)
    for ours, theirs in zip(clipped(weights, gradients, **settings), reference(gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def adaptively_clipped(weight: np.ndarray, gradient: np.ndarray, share: float) -> np.ndarray:
    """Equation 3 of Brock et al. 2021, one unit at a time."""
    result = gradient.copy()
    for unit in np.ndindex(weight.shape[-1:]) if weight.ndim > 1 else [()]:
        where = (..., *unit)
        limit = share * max(np.linalg.norm(weight[where]), 1e-3)
        norm = np.linalg.norm(gradient[where])
        if norm > limit:
            result[where] *= limit / norm
    return result


def small_network() -> Any:
    convolution = keras.layers.Conv2D(4, 3, name="convolution")
    head = keras.layers.Dense(5, name="head")
    return keras.Sequential([keras.Input((6, 6, 2)), convolution, keras.layers.Flatten(), head])


@pytest.mark.parametrize("share", ["auto", 0.2])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_adaptive_clipping_limits_every_unit_but_those_of_the_last_layer(share: Any, scale: float) -> None:
    weights = small_network().trainable_variables
    (gradients,) = random_gradients(1, weights, scale)
    found = clipped(weights, gradients, clipping="adaptive", clip_threshold=share)
    for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        limited = adaptively_clipped(weight.numpy(), gradient.numpy(), 0.01 if share == "auto" else share)
        np.testing.assert_allclose(found[number], limited if number < 2 else gradient.numpy(), rtol=1e-5)


def test_a_gradient_of_zero_stays_zero_under_adaptive_clipping() -> None:
    weights = small_network().trainable_variables
    gradients = [tf.zeros(weight.shape) for weight in weights]
    assert not any(part.any() for part in clipped(weights, gradients, clipping="adaptive"))


# --- the rules


def keras_optimizer(name: str, **options: Any) -> Any:
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": 1.0, **options}
    if name == "sgd":
        return keras.optimizers.SGD(momentum=0.9, nesterov=True, **options)
    return keras.optimizers.AdamW(**options) if name == "adamw" else keras.optimizers.Lion(**options)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"clipping": "norm"}, {"global_clipnorm": None, "clipnorm": 1.0}),
        ({"clipping": "value"}, {"global_clipnorm": None, "clipvalue": 0.5}),
        ({"clipping": "off"}, {"global_clipnorm": None}),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_moves_the_weights_as_keras_does(name: str, settings: Any, options: Any) -> None:
    ours, theirs = start_weights(), start_weights()
    reference = keras_optimizer(name, **options)
    reference.exclude_from_weight_decay(var_list=[theirs[1]])
    params = {"optimizer": name, "weight_decay": 0.1}
    optimizer = make_optimizer(params, 0.01, ours, settings_of(**settings), scale_loss=False)
    for gradients in random_gradients(5):
        reference.apply(gradients, theirs)
        optimizer.apply([flatten_gradients(gradients, ours)])
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=1e-6)


def test_a_weight_without_a_gradient_counts_with_zeros() -> None:
    weights = start_weights()
    flat = flatten_gradients([None, tf.ones(3)], weights)
    np.testing.assert_array_equal(flat, [0] * 6 + [1] * 3)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_every_optimizer_that_a_space_may_name_has_a_rule(name: str) -> None:
    check_training_values({"optimizer": name}, "own")
    assert set(UPDATE_RULES) == {"adamw", "sgd", "lion"} == set(LEARNING_RATES)


@pytest.mark.parametrize("scale_loss", [False, True])
def test_the_rate_factor_multiplies_the_schedule(scale_loss: bool) -> None:
    moved = []
    for factor in (1.0, 0.5):
        weights = start_weights()
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.4, 0.1])
        optimizer = make_optimizer({"optimizer": "sgd"}, schedule, weights, Settings(), scale_loss)
        flat_optimizer(optimizer).multiply_rate(factor)
        assert flat_optimizer(optimizer).current_rate() == pytest.approx(0.4 * factor)
        optimizer.apply([flatten_gradients(random_gradients(1)[0], weights) * 2.0**15])
        assert flat_optimizer(optimizer).current_rate() == pytest.approx(0.1 * factor)
        moved.append(START[1] - weights[1].numpy())
    np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-6)


# --- the moving average


def averaging(weights: Sequence[Any], momentum: float = 0.99, scale_loss: bool = False) -> Any:
    return make_optimizer({"optimizer": "sgd"}, 0.1, weights, settings_of(ema_momentum=momentum), scale_loss)


def averages_of(weights: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Returns TensorFlow's moving average of the weights, and how many updates it believes were made."""
    updates = tf.Variable(0)
    average = tf.train.ExponentialMovingAverage(0.99, num_updates=updates)
    average.apply([weight.value for weight in weights])  # starts at the present values
    return average, updates


@pytest.mark.parametrize("steps", [1, 20])
def test_the_average_is_that_of_tensorflow(steps: int) -> None:
    weights = start_weights()
    optimizer = averaging(weights)
    average, updates = averages_of(weights)
    for gradients in random_gradients(steps):
        optimizer.apply([flatten_gradients(gradients, weights)])
        updates.assign_add(1)
        average.apply([weight.value for weight in weights])
    optimizer.swap_average()
    for weight in weights:
        np.testing.assert_allclose(weight.numpy(), average.average(weight.value).numpy(), atol=1e-6)


def test_swapping_twice_restores_the_weights_and_the_average_exactly() -> None:
    weights = start_weights()
    optimizer = averaging(weights)
    optimizer.apply([flatten_gradients(random_gradients(1)[0], weights)])
    states = []
    for _ in range(3):
        states.append([weight.numpy() for weight in weights])
        optimizer.swap_average()
    assert not np.array_equal(states[0][0], states[1][0])
    np.testing.assert_array_equal(states[0][0], states[2][0])
    np.testing.assert_array_equal(states[0][1], states[2][1])


def test_without_a_momentum_there_is_no_average_to_swap() -> None:
    weights = start_weights()
    optimizer = averaging(weights, momentum=0)
    optimizer.apply([flatten_gradients(random_gradients(1)[0], weights)])
    before = weights[0].numpy()
    optimizer.swap_average()
    assert not [variable for variable in optimizer.variables if "average" in variable.name]
    np.testing.assert_array_equal(weights[0].numpy(), before)


def test_a_step_that_overflowed_under_a_loss_scale_leaves_weights_and_average() -> None:
    weights = start_weights()
    optimizer = averaging(weights, scale_loss=True)
    optimizer.apply([flatten_gradients(random_gradients(1)[0], weights)])
    before = [variable.numpy() for variable in [*weights, *flat_optimizer(optimizer).variables]]
    optimizer.apply([tf.constant([1.0] * 8 + [np.inf])])
    after = [variable.numpy() for variable in [*weights, *flat_optimizer(optimizer).variables]]
    assert float(optimizer.dynamic_scale.numpy()) == 2.0**14
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


# --- on devices

SCALE = 2.0**15  # of the loss, at first


def train(replicas: int, name: str, clipping: str, scale_loss: bool = False, **how: Any) -> tuple[Any, Devices, Any]:
    """Take five steps, the fourth of which has a gradient that is not finite, and return weights and optimizer."""
    devices = configure_devices(Slot("cpu0"), replicas, lambda *_: None)
    keras.utils.set_random_seed(1)
    with devices.scope():
        weights = small_network().trainable_variables
        settings = settings_of(clipping=clipping, ema_momentum=0.9)
        schedule = keras.optimizers.schedules.CosineDecay(0.01, 8, warmup_target=0.05, warmup_steps=2)
        optimizer = make_optimizer({"optimizer": name, "weight_decay": 0.1}, schedule, weights, settings, scale_loss)
    step = tf.function(lambda gradient: _step(devices, optimizer, gradient, scale_loss), autograph=False, **how)
    for number, gradients in enumerate(random_gradients(5, weights)):
        gradient = flatten_gradients(gradients, weights) * (SCALE if scale_loss and number != 3 else 1.0)
        step(gradient * np.inf if number == 3 else gradient * (0.5 if scale_loss and number == 4 else 1.0))
    return weights, devices, flat_optimizer(optimizer)


@cache
def train_on_one(name: str, clipping: str, scale_loss: bool = False) -> tuple[Any, Devices, Any]:
    """Take the same steps on one device, once for all tests, none of which changes what it gets."""
    return train(1, name, clipping, scale_loss)


def _step(devices: Devices, optimizer: Any, gradient: Any, scale_loss: bool) -> None:
    """Skip a step that is not finite: the loss scale does so itself, otherwise in a branch of every replica's own."""

    def on_replica(gradient: Any) -> None:
        if scale_loss:
            return optimizer.apply([gradient])
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        tf.cond(finite, lambda: optimizer.apply([gradient]) or True, lambda: False)

    return devices.strategy.run(on_replica, (gradient,)) if devices.strategy else on_replica(gradient)


def copies(devices: Devices, variable: Any) -> list[np.ndarray]:
    values = devices.strategy.experimental_local_results(variable.value) if devices.strategy else [variable.value]
    return [value.numpy() for value in values]


def same_everywhere(one: tuple[Any, Devices, Any], other: tuple[Any, Devices, Any], atol: float) -> None:
    expected = [*one[0], *one[2].variables]
    found = [*other[0], *other[2].variables]
    for variable, reference in zip(found, expected, strict=True):
        for copy in copies(other[1], variable):
            np.testing.assert_allclose(copy, copies(one[1], reference)[0], atol=atol, err_msg=reference.path)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "clipping"), [("adamw", "global_norm"), ("sgd", "adaptive"), ("lion", "norm"), ("sgd", "value")]
)
def test_every_replica_takes_the_step_of_one_device(replicas: int, name: str, clipping: str) -> None:
    one, several = train_on_one(name, clipping), train(replicas, name, clipping)
    assert int(several[2].iterations.numpy()) == 4
    same_everywhere(one, several, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_scale_changes_no_step(replicas: int, name: str) -> None:
    same_everywhere(train_on_one(name, "adaptive"), train(replicas, name, "adaptive", scale_loss=True), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale_loss", [False, True])
@pytest.mark.parametrize("clipping", ["global_norm", "norm", "adaptive"])
def test_a_compiled_step_is_the_same(clipping: str, scale_loss: bool) -> None:
    plain = train_on_one("adamw", clipping, scale_loss)
    same_everywhere(plain, train(1, "adamw", clipping, scale_loss, jit_compile=True), 1e-6)


@pytest.mark.parametrize("scale_loss", [False, True])
def test_the_average_and_the_rate_factor_reach_every_replica(scale_loss: bool) -> None:
    one, several = train(1, "adamw", "norm", scale_loss), train(3, "adamw", "norm", scale_loss)
    for _, _, optimizer in (one, several):
        optimizer.swap_average()
        optimizer.multiply_rate(0.5)
        optimizer.multiply_rate(0.5)
        assert optimizer.rate_factor.numpy() == 0.25
    same_everywhere(one, several, 1e-7)
    assert several[2].current_rate() == pytest.approx(one[2].current_rate())
