"""Whatever goes wrong in a trial becomes a failure of the right kind, with one line and the traceback."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import FailureKind, Outcome, Phase
from mloptimizer.core.system_errors import file_error
from mloptimizer.training.trial_failures import describe_failure

pytestmark = pytest.mark.slow

BUILD = "def sample(trial, dataset):\n    return {{}}\n\n\ndef build(params, dataset):\n    import keras\n    {body}\n"
SPACES = {
    "raise KeyError('width')": "build raised KeyError: 'width'",
    "return 'a model'": "build returned a str, not a keras.Model",
    "return keras.Sequential([keras.layers.Dense(10)])": "a model without a keras.Input",
    "return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dense(10)])": "outputs of shape (None, 8, 8, 10)",
    "return keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)])": "a model for inputs of shape (None, 4)",
    "return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(),"
    " keras.layers.Dense(10, activation='softmax')])": "behind a softmax",
}


@pytest.mark.parametrize(("body", "message"), SPACES.items())
def test_a_space_that_builds_no_trainable_model(make_training_plan: Any, run: Any, body: str, message: str) -> None:
    result = run(make_training_plan(space_source=BUILD.format(body=body))).result
    assert (result.outcome, result.failure.kind) == (Outcome.FAILED, FailureKind.SPACE_ERROR), result.failure.traceback
    assert message in result.failure.message
    assert "\n" not in result.failure.message


def test_the_traceback_of_a_space_shows_its_own_line(make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan(space_source=BUILD.format(body="return 1 / 0"))).result.failure
    assert "    return 1 / 0" in failure.traceback
    assert failure.traceback.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_space_with_a_syntax_error(make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan(space_source="def build(:\n")).result.failure
    assert failure.kind is FailureKind.SPACE_ERROR
    assert "line 1" in failure.message


def test_a_training_value_of_an_earlier_version_that_is_impossible(make_training_plan: Any, run: Any) -> None:
    for name, value in {
        "optimizer": "adan",
        "schedule": "linear",
        "learning_rate": -0.1,
        "flip_probability": 2,
    }.items():
        failure = run(make_training_plan(params={name: value})).result.failure
        assert failure.kind is FailureKind.SPACE_ERROR
        assert failure.message.startswith(f"search space 'tiny': {name} = {value!r} is not possible. Possible: ")


def test_a_loss_that_is_no_number(make_training_plan: Any, run: Any) -> None:
    settings = {"clipping": "off", "nan_retries": 0, "batch_size": 8}
    plan = make_training_plan(settings, params={"optimizer": "sgd", "learning_rate": 1e3, "weight_decay": 1e3})
    result = run(plan).result
    assert result.failure.kind is FailureKind.NON_FINITE
    assert "epoch 1" in result.failure.message
    assert not Path(plan.directory).exists()


def poison(_: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
        item[...] = np.nan


def test_weights_that_are_no_numbers_fail_at_the_start(make_training_plan: Any, run: Any, completed: Any) -> None:
    poisoned = completed(make_training_plan(epochs=1)).result.weights
    with h5py.File(poisoned, "r+") as file:
        file.visititems(poison)
    for phase in (Phase.HALL_OF_FAME, Phase.TEST_EVALUATION):
        failure = run(make_training_plan(phase=phase, initial_weights=poisoned)).result.failure
        assert failure.kind is FailureKind.NON_FINITE


def test_images_that_are_gone(make_training_plan: Any, digits: Any, run: Any, tmp_path: Path) -> None:
    failure = run(make_training_plan(dataset=replace(digits, directory=str(tmp_path / "gone")))).result.failure
    assert failure.kind is FailureKind.DATA_ERROR
    assert "gone: the decoded images of digits are missing or damaged. Run the command again" in failure.message


def test_more_memory_than_there_is(make_training_plan: Any, run: Any) -> None:
    body = "import numpy; numpy.zeros(2**60, 'uint8')"
    failure = run(make_training_plan(space_source=BUILD.format(body=body))).result.failure
    assert failure.kind is FailureKind.OUT_OF_MEMORY


def test_an_interrupt_by_the_user(make_training_plan: Any, run: Any) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    assert run(make_training_plan(), interrupt).result.failure.kind is FailureKind.INTERRUPTED


def test_weights_that_are_missing(make_training_plan: Any, run: Any, tmp_path: Path) -> None:
    failure = run(make_training_plan(initial_weights=str(tmp_path / "gone.weights.h5"))).result.failure
    assert failure.kind is FailureKind.ERROR
    assert "gone.weights.h5: " in failure.message


def test_a_folder_that_cannot_be_made(make_training_plan: Any, run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failure = run(make_training_plan(epochs=1, directory=str(tmp_path / "file" / "trial"))).result.failure
    assert failure.kind is FailureKind.ERROR
    assert str(tmp_path / "file") in failure.message


def test_a_full_disk_is_found_behind_the_error_for_the_user() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RunError) as raised:
        raise file_error(Path("model.weights.h5"), full) from full
    assert describe_failure(raised.value).kind is FailureKind.DISK_FULL


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[64,1024]"),
        tf.errors.InternalError(None, None, "CUDNN_STATUS_ALLOC_FAILED in cudnn_dnn.cc"),
        tf.errors.UnknownError(None, None, "failed to allocate memory: CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_a_gpu_without_memory_left_is_seen_in_all_its_words(error: Exception) -> None:
    assert describe_failure(error).kind is FailureKind.OUT_OF_MEMORY


def test_a_long_message_is_cut_to_one_line() -> None:
    message = describe_failure(ValueError("wide " * 1000 + "\nsecond line")).message
    assert message.startswith("ValueError: wide")
    assert len(message) <= 400


def test_a_full_disk_names_its_file_wherever_it_occurs() -> None:
    def raise_it(error: OSError) -> None:
        try:
            raise error
        except OSError as cause:
            raise file_error(Path("folder/model.weights.h5"), cause) from cause

    for error, message in (
        (OSError(errno.ENOSPC, "No space left on device", "folder/model.weights.h5"), "model.weights.h5: No space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
    ):
        with pytest.raises(RunError) as caught:
            raise_it(error)
        failure = describe_failure(caught.value)
        assert failure.kind is FailureKind.DISK_FULL
        assert failure.message.startswith(message)


@tf.function
def look_up(index: Any) -> Any:
    return tf.gather(tf.zeros((3, 2)), index)


@tf.function
def call_python(value: Any) -> Any:
    return tf.numpy_function(lambda number: number["a"], [value], tf.float32)


@pytest.mark.parametrize(
    ("function", "value", "says"),
    [(look_up, [5], "5 is not in [0, 3)"), (call_python, 2.0, "IndexError: invalid index to scalar variable.")],
)
def test_the_line_of_an_error_in_a_graph_is_its_cause(function: Any, value: Any, says: str) -> None:
    with pytest.raises(tf.errors.OpError, match="^Graph execution error") as caught:
        function(tf.constant(value))
    assert describe_failure(caught.value).message.endswith(says)
