"""The parts that a trial is made of, each by itself."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.datasets.library import load_split
from mloptimizer.records import Objective, Slot
from mloptimizer.training.callbacks import Best, EpochFigures
from mloptimizer.training.compilation import STEPS_THAT_PAY, choose_xla
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.model import Objectives, TrainableModel
from mloptimizer.training.network import build_network
from mloptimizer.training.optimizers import flatten_gradients, make_optimizer
from mloptimizer.training.pipeline import evaluation_batches, load_images, training_batches
from mloptimizer.training.precision import choose_precision, precision_policy
from mloptimizer.training.schedule import Steps, learning_rate_schedule, plan_learning_rate, plan_steps


def silent(*_: Any) -> None:
    """Takes a decision that the test is not about."""


CPU = Devices("CPU", 1, 2)
VOLTA = Devices("GPU", 1, 2, compute_capability=(7, 0))
PASCAL = Devices("GPU", 1, 2, compute_capability=(6, 1))


# --- steps and learning rate


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    rate = learning_rate_schedule(1.0, total_steps=110, warmup_steps=10)
    rates = [float(rate(step)) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert np.diff(rates[:11]) == pytest.approx(np.diff(rates[:11])[0])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0, abs=1e-7)


def test_without_a_warm_up_the_learning_rate_starts_at_its_peak() -> None:
    rate = learning_rate_schedule(2.0, total_steps=10, warmup_steps=0)
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(100, 30), (6, 20)])
def test_the_warm_up_is_a_third_of_the_training_at_most(
    make_training_plan: Any, epochs: int, warmup_steps: int
) -> None:
    plan = make_training_plan({"warmup_epochs": 3}, epochs=epochs, params={"learning_rate": 0.5})
    rate = plan_learning_rate(plan.params, plan, Steps(32, 10, 10 * epochs, 2.0))
    assert np.argmax([float(rate(step)) for step in range(10 * epochs)]) == warmup_steps
    assert float(rate(warmup_steps)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "replicas", "batch", "scale"),
    [
        ({}, 1, 64, 1.0),
        ({"batch_size": 16}, 4, 128, 8.0),
        ({"batch_size": 16, "batch_size_multiplier": 3}, 2, 96, 6.0),
        ({"batch_size": 500}, 3, 318, 318 / 500),  # 320 training images
    ],
)
def test_the_global_batch_is_batch_size_times_multiplier_times_replicas(
    make_training_plan: Any, settings: dict[str, int], replicas: int, batch: int, scale: float
) -> None:
    steps = plan_steps(make_training_plan(settings), replicas, silent)
    assert (steps.global_batch, steps.per_epoch) == (batch, 320 // batch)
    assert steps.learning_rate_scale == pytest.approx(scale)


# --- choices


@pytest.mark.parametrize(
    ("setting", "devices", "policy"),
    [
        ("auto", CPU, "float32"),
        ("auto", PASCAL, "float32"),
        ("auto", VOLTA, "mixed_float16"),
        ("mixed_bfloat16", CPU, "mixed_bfloat16"),
    ],
)
def test_half_precision_is_for_tensor_cores(setting: str, devices: Devices, policy: str) -> None:
    assert choose_precision(setting, devices, silent) == policy


@pytest.mark.parametrize(
    ("setting", "devices", "steps", "compiles"),
    [
        ("auto", CPU, 10 * STEPS_THAT_PAY, False),
        ("auto", VOLTA, STEPS_THAT_PAY, True),
        ("auto", VOLTA, STEPS_THAT_PAY - 1, False),
        ("on", CPU, 1, True),
        ("off", VOLTA, 10 * STEPS_THAT_PAY, False),
    ],
)
def test_xla_is_for_gpus_with_many_steps_to_come(setting: str, devices: Devices, steps: int, compiles: bool) -> None:
    assert choose_xla(setting, devices, steps, silent) is compiles


def test_the_policy_is_put_back() -> None:
    before = keras.config.dtype_policy()
    with pytest.raises(RuntimeError), precision_policy("mixed_float16"):
        raise RuntimeError
    assert keras.config.dtype_policy() == before


def test_a_slot_with_gpus_that_tensorflow_does_not_see_is_refused() -> None:
    with pytest.raises(Exception, match="has 9 GPUs but TensorFlow sees"):
        configure_devices(Slot("gpu0", gpu_ids=tuple("012345678")), 1, silent)


# --- images


def test_an_epoch_shows_each_image_at_most_once_and_the_next_one_in_another_order(digits: Any) -> None:
    images = load_images(digits, "train", silent)
    numbered = replace(images, labels=tf.range(images.count))
    batches = training_batches(numbered, Steps(50, 6, 12, 1.0), seed=3, threads=1).take(12)
    labels = np.concatenate([labels for _, labels in batches.as_numpy_iterator()]).reshape(2, 300)
    assert [len(set(epoch)) for epoch in labels] == [300, 300]
    assert (labels[0] != labels[1]).any()


def test_the_training_images_are_standardised(digits: Any) -> None:
    images = load_images(digits, "train", silent)
    (pixels, _), *_ = training_batches(images, Steps(320, 1, 1, 1.0), seed=3, threads=1).take(1)
    assert (float(tf.reduce_mean(pixels)), float(tf.math.reduce_std(pixels))) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize(("global_batch", "replicas"), [(7, 1), (16, 2), (100, 4)])
def test_the_evaluation_sees_every_image_once(digits: Any, global_batch: int, replicas: int) -> None:
    images = load_images(digits, "validation", silent)
    evaluation = evaluation_batches(images, global_batch, Devices("CPU", replicas, 1))
    batches = list(evaluation.batches.take(evaluation.steps).as_numpy_iterator())
    sizes = {len(labels) for _, labels, _ in batches}
    labels = np.concatenate([labels[weights > 0] for _, labels, weights in batches])
    assert len(sizes) == 1
    assert sizes.pop() % replicas == 0
    np.testing.assert_array_equal(labels, load_split(digits, "validation")[1])


# --- model


def small_model(plan: Any, **objectives: Any) -> TrainableModel:
    network = build_network("tiny", plan.space_source, {}, plan.dataset)
    model = TrainableModel(network, Objectives(10, 3, **objectives))
    model.compile(None)
    return model


def test_the_figures_of_an_uneven_number_of_images_are_exact(make_training_plan: Any, digits: Any) -> None:
    model = small_model(make_training_plan(), label_smoothing=0.1)
    images = load_images(digits, "validation", silent)
    validation = evaluation_batches(images, 7, CPU)  # 80 images in batches of 27
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    pixels, labels = load_split(digits, "validation")
    logits = model.predict_on_batch((pixels - np.float32(digits.mean)) / np.float32(digits.std)).astype("float64")
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(80), labels]
    ranks = (logits > logits[np.arange(80), labels][:, None]).sum(axis=1)
    expected = {"loss": losses.mean(), "accuracy": (ranks == 0).mean(), "top_k_accuracy": (ranks < 3).mean()}
    assert model.figures() == pytest.approx(expected, abs=1e-5)


def test_a_network_with_constant_outputs_is_no_better_than_chance(make_training_plan: Any, digits: Any) -> None:
    model = small_model(make_training_plan())
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    validation = evaluation_batches(load_images(digits, "validation", silent), 16, CPU)
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    assert model.figures()["accuracy"] == pytest.approx(0.1, abs=0.05)
    assert model.figures()["top_k_accuracy"] == pytest.approx(0.3, abs=0.1)


def keras_optimizer(name: str) -> Any:
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": 1.0}
    if name == "sgd":
        return keras.optimizers.SGD(momentum=0.9, nesterov=True, **options)
    return keras.optimizers.AdamW(**options) if name == "adamw" else keras.optimizers.Lion(**options)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_an_optimizer_moves_the_weights_as_keras_does(name: str) -> None:
    start = [np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3), np.ones(3, "float32")]
    ours, theirs = ([keras.Variable(value) for value in start] for _ in range(2))
    reference = keras_optimizer(name)
    reference.exclude_from_weight_decay(var_list=[theirs[1]])
    optimizer = make_optimizer({"optimizer": name, "weight_decay": 0.1}, 0.01, ours, 1.0, scale_loss=False)
    random = np.random.default_rng(0)
    for _ in range(5):
        gradients = [tf.constant(random.normal(size=value.shape), tf.float32) for value in start]
        reference.apply(gradients, theirs)
        optimizer.apply([flatten_gradients(gradients, ours)])
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=1e-6)


def test_a_constraint_of_a_weight_holds(make_training_plan: Any, completed: Any) -> None:
    source = make_training_plan().space_source.replace("strides=2", "strides=2, kernel_constraint='non_neg'")
    plan = make_training_plan(space_source=source, epochs=1, params={"learning_rate": 0.05})
    network = build_network("tiny", source, {}, plan.dataset)
    network.load_weights(completed(plan).result.weights)
    assert network.layers[1].kernel.numpy().min() >= 0


# --- patience


class Played:
    """Stands where the model stands, and plays one validation accuracy per epoch."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies = accuracies
        self.optimizer = SimpleNamespace(learning_rate=0.1)
        self.stop_training = False

    def figures(self) -> dict[str, float]:
        return {"loss": 1.0, "accuracy": self.accuracies[0]}

    def get_weights(self) -> list[float]:
        return [self.accuracies[0]]

    def train(self, callback: EpochFigures) -> int:
        """Return how many epochs the callback lets it train."""
        callback.set_model(self)
        for epoch in range(len(self.accuracies)):
            callback.on_epoch_begin(epoch)
            callback.on_test_begin()
            callback.on_epoch_end(epoch)
            if self.stop_training:
                break
            del self.accuracies[0]
        return epoch + 1


def test_a_warm_start_may_stay_behind_its_start_for_longer_than_the_patience_while_it_improves() -> None:
    model = Played([0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.5, 0.5, 0.6])
    objective = Objective("val_accuracy")
    best = Best(model, objective)
    best.offer({"val_accuracy": 0.9})
    assert model.train(EpochFigures(64, silent, best, 3, objective)) == 8
    assert best.value == 0.9


# --- the server that trials are forked from

FORK = """
import os, sys, threading
from mloptimizer.training import preload
assert threading.active_count() == 1
child = os.fork()
if child == 0:
    import keras
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()).scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(tf.ones((8, 2)), tf.ones((8, 1)), batch_size=4, verbose=0)
    os._exit(0 if len(tf.config.list_logical_devices("CPU")) == 2 else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_child_forked_after_the_preload_chooses_its_devices_and_trains() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
