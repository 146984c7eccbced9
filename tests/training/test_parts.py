"""The parts that a trial is made of, each by itself."""

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import Slot
from mloptimizer.data.library import load_split
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.input.pipeline import evaluation_batches, load_images
from mloptimizer.training.network import build_network
from mloptimizer.training.step.compilation import can_compile, choose_xla
from mloptimizer.training.step.precision import choose_precision, precision_policy
from mloptimizer.training.step.training_model import Objectives, TrainableModel
from mloptimizer.training.trial_failures import SpaceError


def silent(*_: Any) -> None:
    """Takes a decision that the test is not about."""


CPU = Devices("CPU", 1, 2)
VOLTA = Devices("GPU", 1, 2, compute_capability=(7, 0))
PASCAL = Devices("GPU", 1, 2, compute_capability=(6, 1))


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
    assert choose_precision(setting, devices, silent).policy == policy


@pytest.mark.parametrize(("devices", "place"), [(CPU, "a CPU"), (VOLTA, "compute capability 7.0")])
def test_tensor_float_is_refused_on_devices_without_it(devices: Devices, place: str) -> None:
    with pytest.raises(RunError, match=rf"precision = tf32: .*{place}.* Possible: float32"):
        choose_precision("tf32", devices, silent)


def test_float32_means_float32_unless_tensor_float_is_asked_for() -> None:
    ampere = Devices("GPU", 1, 2, compute_capability=(8, 0))
    for setting, expected in (("tf32", True), ("float32", False), ("auto", False)):
        with precision_policy(choose_precision(setting, ampere, silent)):
            assert tf.config.experimental.tensor_float_32_execution_enabled() is expected


@pytest.mark.parametrize(
    ("setting", "devices", "steps", "compiles"),
    [
        ("auto", CPU, 20_000, False),
        ("auto", VOLTA, 2000, True),
        ("auto", VOLTA, 1999, False),
        ("on", CPU, 1, True),
        ("off", VOLTA, 20_000, False),
    ],
)
def test_xla_is_for_gpus_with_many_steps_to_come(setting: str, devices: Devices, steps: int, compiles: bool) -> None:
    assert choose_xla(Settings(xla=setting), devices, steps, silent) is compiles


@pytest.mark.parametrize("name", ["deterministic", "check_numerics"])
def test_xla_stays_off_for_settings_that_it_would_undo(name: str) -> None:
    assert not choose_xla(Settings.model_validate({name: True}), VOLTA, 20_000, silent)


def synchronized_network() -> Any:
    """Returns a model with a synchronised normalisation in a model inside."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(synchronized=True, name="norm")])
    return keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])


def test_a_layer_that_syncs_replicas_is_not_compiled_on_each() -> None:
    two = Devices("GPU", 2, 2)
    assert can_compile(synchronized_network(), VOLTA, True, silent)
    assert not can_compile(synchronized_network(), two, False, silent)
    with pytest.raises(SpaceError, match="xla = on: layer 'norm' normalises over all replicas.* Possible: xla = auto"):
        can_compile(synchronized_network(), two, True, silent)


def test_the_policy_is_restored() -> None:
    before = keras.config.dtype_policy()
    with pytest.raises(RuntimeError), precision_policy(choose_precision("mixed_float16", CPU, silent)):
        raise RuntimeError
    assert keras.config.dtype_policy() == before


def test_replicas_on_the_cpu_share_the_memory_of_their_slot() -> None:
    assert configure_devices(Slot("cpu0", memory_mb=3000), 2, silent).memory_mb == 1500


def test_a_slot_with_gpus_that_tensorflow_does_not_see_is_refused() -> None:
    with pytest.raises(Exception, match="has 9 GPUs but TensorFlow sees"):
        configure_devices(Slot("gpu0", gpu_ids=tuple("012345678")), 1, silent)


# --- model


def small_model(plan: Any, **objectives: Any) -> TrainableModel:
    network = build_network("tiny", plan.space_source, {}, plan.dataset)
    model = TrainableModel(network, Objectives(10, 3, **objectives))
    model.compile(None)
    return model


def test_the_metrics_of_an_odd_number_of_images_are_exact(make_training_plan: Any, digits: Any) -> None:
    model = small_model(make_training_plan(), label_smoothing=0.1)
    images = load_images(digits, "validation", silent)
    validation = evaluation_batches(images, 7, CPU)  # 80 images in batches of 27
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    pixels, labels = load_split(digits, "validation")
    logits = model.predict_on_batch((pixels - np.float32(digits.mean)) / np.float32(digits.std)).astype("float64")
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(80), labels]
    ranks = (logits > logits[np.arange(80), labels][:, None]).sum(axis=1)
    expected = {"loss": losses.mean(), "accuracy": (ranks == 0).mean(), "top_k_accuracy": (ranks < 3).mean()}
    assert model.read_metrics() == pytest.approx(expected, abs=1e-5)


def test_a_network_with_constant_outputs_is_no_better_than_chance(make_training_plan: Any, digits: Any) -> None:
    model = small_model(make_training_plan())
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    validation = evaluation_batches(load_images(digits, "validation", silent), 16, CPU)
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    assert model.read_metrics()["accuracy"] == pytest.approx(0.1, abs=0.05)
    assert model.read_metrics()["top_k_accuracy"] == pytest.approx(0.3, abs=0.1)


def test_a_constraint_of_a_weight_holds(make_training_plan: Any, completed: Any) -> None:
    source = make_training_plan().space_source.replace("strides=2", "strides=2, kernel_constraint='non_neg'")
    plan = make_training_plan(space_source=source, epochs=1, params={"learning_rate": 0.05})
    network = build_network("tiny", source, {}, plan.dataset)
    network.load_weights(completed(plan).result.weights)
    assert network.layers[1].kernel.numpy().min() >= 0


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


@pytest.mark.slow
def test_a_child_forked_after_the_preload_chooses_its_devices_and_trains() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
