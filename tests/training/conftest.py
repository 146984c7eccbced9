"""Plans of tiny models on the digits data set, and four logical CPUs to train them on.

The devices of a process are fixed once TensorFlow has started, so they are set here, before any test.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, EpochRecord, Event
from mloptimizer.core.nouns import DatasetInfo, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.data.library import prepare_dataset
from mloptimizer.training.devices import configure_devices
from mloptimizer.training.input.pipeline import evaluation_batches, load_images
from mloptimizer.training.network import build_network, load_weights
from mloptimizer.training.step.training_model import Objectives, TrainableModel
from mloptimizer.training.trial import run_trial

LOGICAL_CPUS = 4
SPACE = '''"""A convolution and a dense layer."""


def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    x = layers.Conv2D(8, 3, strides=2, activation="gelu")(images)
    x = layers.LayerNormalization()(x)
    return keras.Model(images, layers.Dense(dataset.classes)(layers.Flatten()(x)))
'''


@pytest.fixture(scope="session", autouse=True)
def logical_cpus() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS)
    tf.config.list_logical_devices("CPU")  # starts them, so that the first test cannot choose fewer


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """Returns the digits with 320 training and 80 validation images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPTIMIZER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare_dataset("digits", 0.2, 0, 400)


@pytest.fixture
def make_training_plan(tmp_path: Path, digits: DatasetInfo) -> Callable[..., TrialPlan]:
    """Returns a plan that trains the tiny model for two epochs; `settings` are changes of the defaults."""

    def make(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrialPlan:
        plan = TrialPlan(
            study="test",
            number=7,
            phase=Phase.EXPLORATION,
            space="tiny",
            space_source=SPACE,
            params={},
            dataset=digits,
            epochs=2,
            patience=10,
            seed=1,
            directory=str(tmp_path / "trial"),
            settings=Settings.model_validate(settings or {}),
        )
        return replace(plan, **changes)

    return make


@dataclass(frozen=True)
class Run:
    """What a trial gave."""

    result: TrialResult
    events: list[Event]

    @property
    def epochs(self) -> list[EpochRecord]:
        return [event for event in self.events if isinstance(event, EpochRecord)]

    def curve(self, metric: str) -> list[float]:
        return [epoch.metrics[metric] for epoch in self.epochs]

    def decision(self, topic: str) -> Decision:
        return [event for event in self.events if isinstance(event, Decision) and event.topic == topic][-1]


@pytest.fixture
def run() -> Callable[..., Run]:
    """Returns a function that runs the plan on one slot of two cores."""

    def run_plan(
        plan: TrialPlan, should_stop: Callable[[], bool] = lambda: False, events: list[Event] | None = None
    ) -> Run:
        events = [] if events is None else events
        result = run_trial(plan, Slot("cpu0", cpu_ids=(0, 1)), events.append, should_stop)
        return Run(result, events)

    return run_plan


@pytest.fixture
def completed(run: Callable[..., Run]) -> Callable[[TrialPlan], Run]:
    """Returns a function that runs the plan and shows its failure if it has one."""

    def run_plan(plan: TrialPlan) -> Run:
        done = run(plan)
        assert done.result.failure is None, done.result.failure.traceback
        return done

    return run_plan


@pytest.fixture
def validate() -> Callable[[TrialPlan, str], Mapping[str, float]]:
    """Returns a function that gives the metrics of the weights on the validation split, on one device."""

    def measure(plan: TrialPlan, weights: str) -> Mapping[str, float]:
        devices = configure_devices(Slot("cpu0"), 1, lambda *_: None)
        network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
        load_weights(network, weights)
        model = TrainableModel(network, Objectives(plan.dataset.classes, 5))
        model.compile(None)
        validation = evaluation_batches(load_images(plan.dataset, "validation", lambda *_: None), 16, devices)
        model.evaluate(validation.batches, steps=validation.steps, verbose=0)
        return model.read_metrics()

    return measure
