"""A measured training, in this process."""

import contextlib
from collections.abc import Iterator

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.data.library import prepare_dataset
from mloptimizer.spaces.space_files import load_space
from mloptimizer.training.trial import run_trial
from mloptimizer.tuning.measurement import Variant, Workload, measure
from tests.pretended_machine import make_machine

pytestmark = pytest.mark.slow

TINY = '''"""One layer."""

import keras


def sample(trial, dataset):
    return {"optimizer": "sgd", "learning_rate": 0.01}


def build(params, dataset):
    inputs = keras.Input(dataset.input_shape)
    return keras.Model(inputs, keras.layers.Dense(dataset.classes)(keras.layers.Flatten()(inputs)))
'''


def test_a_real_training_is_measured_and_watched() -> None:
    uses: list[None] = []

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        uses.append(None)
        yield

    params = {"optimizer": "sgd", "learning_rate": 0.01}
    dataset = prepare_dataset("digits", 0.2, 1, 0)
    workload = Workload(load_space("tiny", TINY, "tiny"), params, dataset, epochs=3, steps_per_epoch=5)
    found = measure(workload, Variant("1 GPU", Settings()), make_machine(run_trial), waiting)
    assert (found.failure, len(uses) > 1) == ("", True)
    assert found.images_per_second is not None and found.images_per_second > 0
