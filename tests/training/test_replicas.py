"""Several replicas train exactly as one device does with the same global batch."""

from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.nouns import Slot
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.network import build_network
from mloptimizer.training.step.optimizers import make_optimizer
from mloptimizer.training.step.precision import Precision, precision_policy
from mloptimizer.training.step.training_model import Objectives, StepOptions, TrainableModel

pytestmark = pytest.mark.slow

GLOBAL_BATCH = 48  # divisible by 1, 2, 3 and 4 replicas with two micro-batches each
RATES = {"adamw": 3e-3, "sgd": 0.05, "lion": 3e-4}
CURVES = ("loss", "val_loss", "accuracy", "val_accuracy", "val_top_k_accuracy", "learning_rate", "gradient_norm")


def weights_of(path: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def on_replicas(make_training_plan: Any, replicas: int, optimizer: str, **settings: Any) -> Any:
    """The global batch and the scaled learning rate are the same for any number of replicas."""
    params = {"optimizer": optimizer, "learning_rate": RATES[optimizer] / replicas, "weight_decay": 0.05}
    settings = {
        "cpu_replicas": replicas,
        "batch_size": GLOBAL_BATCH // replicas,
        "batch_size_multiplier": 1,
        **settings,
    }
    return make_training_plan(settings, params={**params, "label_smoothing": 0.1})


@pytest.mark.parametrize(("optimizer", "counts"), [("adamw", (1, 4)), ("sgd", (2,)), ("lion", (3,))])
def test_replicas_with_accumulation_clipping_and_averaging_train_exactly_as_one_without_accumulation(
    make_training_plan: Any, completed: Any, optimizer: str, counts: tuple[int, ...]
) -> None:
    def train(replicas: int, **settings: Any) -> Any:
        plan = on_replicas(make_training_plan, replicas, optimizer, clip_threshold=0.5, ema_momentum=0.9, **settings)
        return completed(replace(plan, epochs=3))

    expected = train(1)
    for replicas in counts:
        found = train(replicas, accumulation_steps=2, steps_per_execution=4)
        for metric in CURVES:
            assert found.curve(metric) == pytest.approx(expected.curve(metric), abs=1e-5), (metric, replicas)
        weights = weights_of(found.result.weights)
        for name, value in weights_of(expected.result.weights).items():
            np.testing.assert_allclose(weights[name], value, atol=1e-5, err_msg=name)


def test_replicas_in_float16_stay_within_its_rounding(make_training_plan: Any, completed: Any) -> None:
    runs = [
        completed(replace(on_replicas(make_training_plan, replicas, "adamw", precision="mixed_float16"), epochs=3))
        for replicas in (1, 4)
    ]
    for run in runs[1:]:
        assert run.curve("loss") == pytest.approx(runs[0].curve("loss"), abs=1e-2)
        assert run.curve("val_loss") == pytest.approx(runs[0].curve("val_loss"), abs=1e-2)


def test_gradients_are_clipped_after_the_sum_over_the_replicas(make_training_plan: Any, completed: Any) -> None:
    one, two = (completed(on_replicas(make_training_plan, replicas, "sgd", clip_threshold=0.05)) for replicas in (1, 2))
    free = completed(on_replicas(make_training_plan, 1, "sgd", clipping="off"))
    assert two.curve("val_loss") == pytest.approx(one.curve("val_loss"), abs=2e-5)
    assert free.curve("val_loss") != pytest.approx(one.curve("val_loss"), abs=2e-2)


def test_every_replica_is_used(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan({"cpu_replicas": 2, "batch_size": 32}))
    assert done.decision("strategy").choice == "MirroredStrategy"
    assert done.decision("global batch").choice == "128"
    assert done.decision("learning-rate scale").choice == "4"


@pytest.mark.parametrize("replicas", [1, 2])
def test_nothing_tunes_the_batches_so_that_the_end_of_a_trial_waits_for_no_sleeping_tuner(
    make_training_plan: Any, completed: Any, monkeypatch: pytest.MonkeyPatch, replicas: int
) -> None:
    iterate = tf.data.Dataset.__iter__
    tuned = []

    def note(dataset: Any) -> Any:
        tuned.append(dataset.options().autotune.enabled)
        return iterate(dataset)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", note)
    completed(make_training_plan({"cpu_replicas": replicas, "batch_size": 32}))
    assert set(tuned) == {False}  # with None TensorFlow tunes


def test_the_statistics_of_batch_normalisation_are_those_that_were_validated(
    make_training_plan: Any, completed: Any, validate: Any
) -> None:
    plan = make_training_plan({"cpu_replicas": 2, "batch_size": 32})
    plan = replace(
        plan, space_source=plan.space_source.replace("LayerNormalization()", "BatchNormalization(momentum=0.8)")
    )
    trained = completed(plan).result
    assert validate(plan, trained.weights)["loss"] == pytest.approx(trained.metrics["val_loss"], abs=1e-5)


def half_precision_model(make_training_plan: Any, devices: Devices, options: StepOptions) -> Any:
    plan = make_training_plan({"precision": "mixed_float16"})
    with precision_policy(Precision("mixed_float16", "mixed_float16")), devices.scope():
        network = build_network("tiny", plan.space_source, {}, plan.dataset)
        model = TrainableModel(network, Objectives(10, 5), options)
        optimizer = make_optimizer({"optimizer": "sgd"}, 0.1, model.trainable_variables, plan.settings, scale_loss=True)
        model.compile(optimizer, auto_scale_loss=False, steps_per_execution=options.per_execution)
    return model


@pytest.mark.parametrize("options", [StepOptions(), StepOptions(per_epoch=2, per_execution=2, accumulation_steps=2)])
@pytest.mark.parametrize(("replicas", "poisoned"), [(2, 0), (2, 1), (4, 3)])
def test_float16_batches_that_overflow_on_one_replica_change_only_the_loss_scale(
    make_training_plan: Any, replicas: int, poisoned: int, options: StepOptions
) -> None:
    devices = configure_devices(Slot("cpu0"), replicas, lambda *_: None)
    model = half_precision_model(make_training_plan, devices, options)
    before, scale = model.get_weights(), float(model.optimizer.dynamic_scale.numpy())
    images = np.random.default_rng(0).normal(size=(4 * replicas, 8, 8, 1)).astype("float32")
    images[4 * poisoned + 3] = 1e30  # overflows in float16; the last image of its replica
    targets = np.eye(10, dtype="float32")[np.arange(4 * replicas) % 10]
    batches = tf.data.Dataset.from_tensors((images, targets)).repeat()
    model.fit(batches, steps_per_epoch=options.per_epoch, verbose=0, shuffle=False)
    assert float(model.optimizer.dynamic_scale.numpy()) == scale / 2**options.per_epoch
    assert model.guard.read_metrics()["skipped_steps"] == options.per_epoch
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_more_replicas_than_the_process_has_devices_fail_with_one_clear_line(make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan({"cpu_replicas": 8})).result.failure
    assert "cpu_replicas = 8: this process has already started with 4 logical CPUs" in failure.message
