"""Trials that are cut off and go on: from their last whole checkpoint, and as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mloptimizer.metrics_store import CHECKPOINTS
from mloptimizer.records import Decision, EpochRecord, Outcome, Phase, SignOfLife, TrialPlan
from mloptimizer.settings import Settings
from mloptimizer.training.checkpoint_files import DamagedCheckpoint, read_checkpoint
from mloptimizer.training.checkpoints import SHAPING_SETTINGS

TIMES = {"images_per_second", "data_wait_percent"}
NOISY_SPACE = '''"""A convolution with statistics of its own on every replica, and dropout."""


def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    x = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(8, 3, strides=2)(images))
    x = layers.Dropout(0.3)(layers.Flatten()(layers.Activation("gelu")(x)))
    return keras.Model(images, layers.Dense(dataset.classes)(x))
'''


@pytest.fixture
def make_plan(make_training_plan: Any) -> Callable[..., TrialPlan]:
    """Returns a plan of four epochs of the noisy space, in a folder of its name."""

    def make(name: str = "trial", settings: Any = None, **changes: Any) -> TrialPlan:
        plan = make_training_plan(settings, **{"epochs": 4, "space_source": NOISY_SPACE, **changes})
        return replace(plan, directory=str(Path(plan.directory).with_name(name)))

    return make


@pytest.fixture
def cut_off(run: Any) -> Callable[[TrialPlan, int], Any]:
    """Returns a function that stops the plan's trial in the epoch after so many."""

    def cut(plan: TrialPlan, epochs: int) -> Any:
        events: list[Any] = []

        def should_stop() -> bool:
            return sum(isinstance(event, EpochRecord) for event in events) >= epochs

        done = run(plan, should_stop, events)
        assert done.result.outcome is Outcome.PRUNED
        assert len(done.epochs) == epochs
        return done

    return cut


@pytest.fixture
def gone_on(completed: Any) -> Callable[[TrialPlan], Any]:
    """Returns a function that lets the plan's trial go on."""
    return lambda plan: completed(replace(plan, resumes=True, attempt=plan.attempt + 1))


def files(plan: TrialPlan) -> list[Path]:
    return sorted((Path(plan.directory) / CHECKPOINTS).iterdir())


def names(plan: TrialPlan) -> list[str]:
    return [path.name for path in files(plan)]


def choices(done: Any) -> list[str]:
    return [event.choice for event in done.events if isinstance(event, Decision) and event.topic == "checkpoint"]


def weights(path: str) -> list[np.ndarray]:
    import h5py

    found: list[np.ndarray] = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(np.array(item)) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same(found: Any, wanted: Any, first_epoch: int) -> None:
    """Compare the epochs from the first one on, the result, and the best weights."""
    assert [epoch.epoch for epoch in found.epochs] == [epoch.epoch for epoch in wanted.epochs[first_epoch - 1 :]]
    for mine, other in zip(found.epochs, wanted.epochs[first_epoch - 1 :], strict=True):
        for metric in set(other.metrics) - TIMES:
            assert mine.metrics[metric] == pytest.approx(other.metrics[metric], abs=1e-6, nan_ok=True), metric
    assert found.result.value == pytest.approx(wanted.result.value, abs=1e-6)
    for mine, other in zip(weights(found.result.weights), weights(wanted.result.weights), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"ema_momentum": 0.9, "accumulation_steps": 2}, {"learning_rate": 0.02}),
        ({"cpu_replicas": 2, "batch_size": 32, "ema_momentum": 0.9}, {"learning_rate": 0.02}),
        ({"cpu_replicas": 2, "batch_size": 16, "schedule": "plateau", "warmup_epochs": 0}, {"learning_rate": 0.3}),
        ({"steps_per_execution": 3, "objective": "val_loss"}, {"optimizer": "sgd"}),
    ],
    ids=["average and micro-batches", "two devices with an average", "two devices on a plateau", "three steps a call"],
)
def test_a_trial_that_was_cut_off_gives_the_figures_of_an_unbroken_one(
    make_plan: Any, completed: Any, cut_off: Any, gone_on: Any, settings: Any, params: Any
) -> None:
    more = {"params": params, "patience": 2 if "schedule" in settings else 9}
    wanted = completed(make_plan("unbroken", settings, **more))
    plan = make_plan("broken", settings, **more)
    cut_off(plan, 2)
    found = gone_on(plan)
    assert choices(found) == ["on from epoch 2"]
    assert_same(found, wanted, 3)


def test_the_loss_scale_of_half_precision_goes_on(make_plan: Any, completed: Any, cut_off: Any, gone_on: Any) -> None:
    settings = {"precision": "mixed_float16"}
    wanted = completed(make_plan("unbroken", settings, epochs=3))
    plan = make_plan("broken", settings, epochs=3)
    cut_off(plan, 1)
    kept = read_checkpoint(files(plan)[0]).arrays["model"]
    assert any(array.size == 1 and float(array.ravel()[0]) >= 2**10 for array in kept)  # the scale starts at 2^15
    assert_same(gone_on(plan), wanted, 2)
