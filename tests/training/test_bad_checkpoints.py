"""Damaged and forged checkpoints: the training resumes from the one before, says why, and needs no more memory."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Objective
from mloptimizer.training.callbacks import Best
from mloptimizer.training.checkpoints.checkpoint_files import _seal, checkpoint_path, write_checkpoint
from mloptimizer.training.checkpoints.saving import TrainingState, resume_training
from mloptimizer.training.step.optimizers import make_optimizer
from mloptimizer.training.step.schedule import Plateau
from mloptimizer.training.step.training_model import Objectives, TrainableModel
from tests.bad_inputs.harness import REPEATABLE, damaged, json_values, with_other_values

pytestmark = pytest.mark.slow

IDENTITY = {"study": "s", "number": 3}


@pytest.fixture(scope="module")
def state() -> TrainingState:
    """The state of a small model with two of the parts that follow it."""
    images = keras.Input((4,))
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.BatchNormalization()(images)))
    model = TrainableModel(network, Objectives(3, 2))
    model.compile(
        make_optimizer({}, 0.1, model.trainable_variables, Settings(), scale_loss=False), auto_scale_loss=False
    )
    best = Best(network, Objective("val_accuracy"))
    best.offer({"val_accuracy": 0.5})
    return TrainingState(model, network, {"best": best, "plateau": Plateau(Objective("val_accuracy"), 2)})


@pytest.fixture(scope="module")
def written(state: TrainingState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints after the epochs 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for epoch in (1, 2):
        write_checkpoint(checkpoint_path(folder, epoch), state.take(epoch, IDENTITY))
    return folder


def resume(folder: Path, state: TrainingState, newest: bytes) -> tuple[int, list[tuple[str, ...]]]:
    """Replace the newest checkpoint by these bytes; return the epoch from which a training resumes, and its reports."""
    place = folder / "again"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    checkpoint_path(place, 1).write_bytes(checkpoint_path(folder, 1).read_bytes())
    checkpoint_path(place, 2).write_bytes(newest)
    reports: list[tuple[str, ...]] = []
    return resume_training(place, IDENTITY, state, lambda *words: reports.append(words)), reports


def forge(whole: bytes, **changes: Any) -> bytes:
    """Return the checkpoint with other fields in its first line, and the right checksum."""
    line, _, payload = whole.partition(b"\n")
    header = {**json.loads(line), **changes}
    header.pop("header_sha256", None)
    return _seal(header) + b"\n" + payload


def assert_fallen_back(epoch: int, reports: list[tuple[str, ...]]) -> None:
    assert epoch == 1
    assert reports[0][1] == "epoch_00002.ckpt passed over"
    assert reports[0][2] and "\n" not in reports[0][2]


@given(data=st.data())
@settings(REPEATABLE, max_examples=60)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(written: Path, state: TrainingState, data: Any) -> None:
    whole = checkpoint_path(written, 2).read_bytes()
    newest = data.draw(damaged(whole))
    epoch, reports = resume(written, state, newest)
    if newest != whole and newest.rstrip(b"\n") != whole.rstrip(b"\n"):
        assert_fallen_back(epoch, reports)


@given(data=st.data())
@settings(REPEATABLE, max_examples=120)
def test_a_forged_first_line_falls_back_or_is_what_it_says(written: Path, state: TrainingState, data: Any) -> None:
    whole = checkpoint_path(written, 2).read_bytes()
    header = whole.partition(b"\n")[0]
    fields = data.draw(
        st.one_of(
            with_other_values(header).map(json.loads),
            st.dictionaries(st.sampled_from(sorted(json.loads(header))), json_values, min_size=1, max_size=2),
        )
    )
    epoch, reports = resume(written, state, forge(whole, **fields))
    if reports[0][1].endswith("passed over"):
        assert_fallen_back(epoch, reports)
    values = state.take(1, IDENTITY)
    assert json.dumps(values.values)  # the parts can be kept again


@pytest.mark.parametrize("side", [2**33, 2**62, 10**30, -1, 1.5, "3", None, [1], True])
@pytest.mark.parametrize("dtype", ["float32", "object", "nothing", "V1000000000"])
def test_absurd_shapes_take_no_memory(written: Path, state: TrainingState, side: Any, dtype: str) -> None:
    whole = checkpoint_path(written, 2).read_bytes()
    arrays = json.loads(whole.partition(b"\n")[0])["arrays"]
    arrays["model"][0] = [dtype, [side, 4]]
    tracemalloc.start()
    assert_fallen_back(*resume(written, state, forge(whole, arrays=arrays)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_payload_that_unpacks_to_more_than_it_states_is_not_unpacked_further(
    written: Path, state: TrainingState, tmp_path: Path
) -> None:
    import hashlib

    whole = checkpoint_path(written, 2).read_bytes()
    bomb = zstandard.compress(bytes(2**28))
    newest = forge(whole, size=len(bomb), sha256=hashlib.sha256(bomb).hexdigest()).partition(b"\n")[0] + b"\n" + bomb
    tracemalloc.start()
    resume(written, state, newest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_the_checkpoint_of_another_trial_is_passed_over(written: Path, state: TrainingState, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 2)
    write_checkpoint(path, state.take(2, {**IDENTITY, "number": 4}))
    epoch, reports = resume(written, state, path.read_bytes())
    assert_fallen_back(epoch, reports)
    assert "number 4, not 3" in reports[0][2]


def test_arrays_of_a_type_that_no_variable_has_are_passed_over(
    written: Path, state: TrainingState, tmp_path: Path
) -> None:
    taken = state.take(2, IDENTITY)
    arrays = {**taken.arrays, "model": [np.zeros(1, np.uint8), *taken.arrays["model"][1:]]}
    path = checkpoint_path(tmp_path, 2)
    write_checkpoint(path, type(taken)(2, IDENTITY, taken.values, arrays))
    assert_fallen_back(*resume(written, state, path.read_bytes()))
