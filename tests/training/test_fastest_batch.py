"""The number of images per replica that trains fastest."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from mloptimizer.training.memory.fastest_batch import choose_batch_size, identify_model

pytestmark = pytest.mark.slow


def silent(*_: Any) -> None:
    """Takes a decision that the test is not about."""


def playing(speeds: dict[int, float], tried: list[int] | None = None) -> Callable[[int], float]:
    """Returns a measurement with these speeds; other sizes do not fit."""

    def measure(size: int) -> float:
        if tried is not None:
            tried.append(size)
        if size not in speeds:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return speeds[size]

    return measure


def test_the_smallest_size_within_five_percent_of_the_fastest_is_taken() -> None:
    assert choose_batch_size(playing({16: 100, 32: 180, 64: 196, 128: 200, 256: 190}), 256, None, silent) == 64


def test_a_size_that_does_not_fit_ends_the_measurement() -> None:
    tried: list[int] = []
    assert choose_batch_size(playing({16: 100, 32: 200}, tried), 1024, None, silent) == 32
    assert tried == [16, 32, 64]


def test_two_slower_sizes_in_a_row_end_the_measurement() -> None:
    tried: list[int] = []
    choose_batch_size(playing({16: 300, 32: 200, 64: 100, 128: 500}, tried), 128, None, silent)
    assert tried == [16, 32, 64]


def test_nothing_is_tried_beyond_the_largest() -> None:
    tried: list[int] = []
    choose_batch_size(playing({16: 1, 32: 2, 64: 3}, tried), 32, None, silent)
    assert tried == [16, 32]


def test_if_nothing_fits_the_smallest_is_taken() -> None:
    assert choose_batch_size(playing({}), 1024, None, silent) == 16


def test_a_shape_is_measured_once(tmp_path: Path) -> None:
    record, tried = tmp_path / "shape.json", []
    first = choose_batch_size(playing({16: 100, 32: 200}, tried), 32, record, silent)
    assert choose_batch_size(playing({}, tried), 32, record, silent) == first == 32
    assert tried == [16, 32]


def stopping_at(last: int, tried: list[int] | None = None) -> Callable[[int], float]:
    """Returns a measurement that grows with the size, and is interrupted at this one."""

    def measure(size: int) -> float:
        if tried is not None:
            tried.append(size)
        if size == last:
            raise KeyboardInterrupt
        return float(size)

    return measure


@pytest.mark.parametrize(
    ("asking", "chosen", "tried_again"),
    [
        ((7, 2), 32, []),  # the next attempt: the first one died
        ((7, 1), 128, [64, 128]),  # the same attempt, when the study is continued
        ((8, 1), 128, [64, 128]),
        ((8, 2), 128, [64, 128]),
    ],
)
def test_only_a_size_at_which_an_earlier_attempt_of_the_trial_died_is_not_tried_again(
    tmp_path: Path, asking: tuple[int, int], chosen: int, tried_again: list[int]
) -> None:
    record, tried = tmp_path / "shape.json", []
    with pytest.raises(KeyboardInterrupt):
        choose_batch_size(stopping_at(64), 128, record, silent, (7, 1))
    assert choose_batch_size(stopping_at(0, tried), 128, record, silent, asking) == chosen
    assert tried == tried_again


def test_an_interruption_at_the_smallest_size_does_not_settle_for_it(tmp_path: Path) -> None:
    record = tmp_path / "shape.json"
    with pytest.raises(KeyboardInterrupt):
        choose_batch_size(stopping_at(16), 64, record, silent, (0, 1))
    assert choose_batch_size(playing({16: 1, 32: 2, 64: 4}), 64, record, silent, (1, 1)) == 64


def test_a_second_process_waits_for_the_measurement_and_takes_its_choice(tmp_path: Path) -> None:
    record, begun, go_on, tried = tmp_path / "shape.json", threading.Event(), threading.Event(), []

    def slow(size: int) -> float:
        begun.set()
        assert go_on.wait(60)
        return float(size)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(choose_batch_size, slow, 32, record, silent, (0, 1))
        assert begun.wait(60)
        second = pool.submit(choose_batch_size, playing({16: 1.0}, tried), 32, record, silent, (1, 1))
        assert not wait([second], 0.2).done
        go_on.set()
        assert first.result(60) == second.result(60) == 32
    assert tried == []


def test_a_damaged_record_is_measured_again(tmp_path: Path) -> None:
    record = tmp_path / "shape.json"
    record.write_text("{")
    assert choose_batch_size(playing({16: 1.0}), 16, record, silent) == 16


def network(units: int, activation: str = "relu") -> Any:
    images = keras.Input((4, 4, 1))
    return keras.Model(images, keras.layers.Dense(units, activation=activation)(keras.layers.Flatten()(images)))


def test_models_of_one_shape_have_one_name() -> None:
    assert identify_model(network(8), "float32") == identify_model(network(8), "float32")
    names = {identify_model(network(units), precision) for units in (8, 9) for precision in ("float32", "tf32")}
    assert len(names) == 4


def test_a_trial_measures_its_batch_and_leaves_no_trace_in_the_training(
    make_training_plan: Any, completed: Any, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    settings = {"batch_size": "auto", "learning_rate_scaling": "none"}
    measured = completed(make_training_plan(settings, cache_directory=cache))
    size = int(measured.decision("batch size").choice)
    assert measured.decision("global batch").choice == str(size)
    again = completed(make_training_plan(settings, cache_directory=cache))
    assert "measured before" in again.decision("batch size").reason
    fixed = completed(make_training_plan({**settings, "batch_size": size}))
    assert measured.curve("loss") == again.curve("loss") == fixed.curve("loss")
