"""Measures which batch size per replica trains fastest, once per shape of model.

The results are kept as JSON in a folder that the trials of a study share. One process of a machine at a time measures a
shape; the others wait and take its choice. A size is recorded before it is tried, so that the next attempt of the same
trial skips the size at which the last one died. A measurement interrupted in another way resumes.
"""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.files import read_json, write_json
from mloptimizer.core.locks import hold_lock
from mloptimizer.training.devices import Decide
from mloptimizer.training.keras_internals import all_outputs

SMALLEST_BATCH = 16
CLOSE_TO_FASTEST = 0.95  # the smallest size within 5 % of the fastest wins: it makes more updates per epoch
WARM_UP_STEPS, FEWEST_TIMED_STEPS, TIMED_IMAGES = 2, 3, 512
SLOWER_IN_A_ROW = 2  # then no larger size is tried

Measure = Callable[[int], float]
"""Takes images per replica; returns images per second, or raises if they do not fit."""


def choose_batch_size(
    measure: Measure, largest: int, record: Path | None, decide: Decide, trial: tuple[int, int] = (0, 1)
) -> int:
    """Return the images per replica: a power of two from 16 to `largest`.

    Args:
        record: file of the measurements; None: nothing is kept.
        trial: number and attempt of the trial. A size that an earlier attempt recorded as being tried counts as the
            one at which it died.

    Raises:
        UsageError, RunError: the record cannot be written.
    """
    # The system frees the lock however this process ends.
    with hold_lock(record.with_suffix(".lock")) if record else contextlib.nullcontext():
        found = _read(record)
        if "chosen" in found:
            size = int(found["chosen"])
            decide("batch size", str(size), f"measured before: {_describe(found['images_per_second'])}")
            return size
        speeds = {int(size): float(speed) for size, speed in found.get("images_per_second", {}).items()}
        number, attempt = trial
        if found.get("trial") == number and int(found.get("attempt", attempt)) < attempt and found.get("trying"):
            speeds[int(found["trying"])] = 0.0  # where the earlier attempt died
        _measure_all(measure, largest, speeds, record, trial)
        enough = CLOSE_TO_FASTEST * max(speeds.values(), default=0.0)
        size = min((size for size, speed in speeds.items() if speed and speed >= enough), default=SMALLEST_BATCH)
        _write(record, {"images_per_second": speeds, "chosen": size})
    reason = f"measured, images per second: {_describe(speeds)}" if any(speeds.values()) else "nothing larger fits"
    decide("batch size", str(size), reason)
    return size


def _measure_all(
    measure: Measure, largest: int, speeds: dict[int, float], record: Path | None, trial: tuple[int, int]
) -> None:
    """Measure growing sizes into `speeds`, with 0 for a size that does not fit."""
    size, slower = SMALLEST_BATCH, 0
    while size <= max(largest, SMALLEST_BATCH) and slower < SLOWER_IN_A_ROW:
        if size not in speeds:
            _write(record, {"images_per_second": speeds, "trying": size, "trial": trial[0], "attempt": trial[1]})
            try:
                speeds[size] = measure(size)
            except (MemoryError, tf.errors.ResourceExhaustedError):
                speeds[size] = 0.0
        if not speeds[size]:
            break
        slower = slower + 1 if speeds[size] < max(speeds.values()) else 0
        size *= 2


def measure_speed(model: Any, shape: tuple[int, ...], classes: int) -> float:
    """Return the training speed of the model on made-up images, in images per second; its weights change.

    Args:
        shape: of a global batch, (batch, height, width, channels).

    Raises:
        tf.errors.ResourceExhaustedError: they do not fit.
    """
    batch = (tf.random.stateless_normal(shape, seed=(0, 0)), tf.one_hot(tf.range(shape[0]) % classes, classes))
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(batches, steps_per_epoch=WARM_UP_STEPS, verbose=0, shuffle=False)
    steps = max(FEWEST_TIMED_STEPS, math.ceil(TIMED_IMAGES / shape[0]))
    started = time.perf_counter()
    model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
    model.read_metrics()  # waits until the last step is done
    return steps * shape[0] / (time.perf_counter() - started)


def _describe(speeds: Mapping[Any, float]) -> str:
    return ", ".join(f"{size}: {speed:.0f}" if speed else f"{size} does not fit" for size, speed in speeds.items())


def identify_model(network: Any, *conditions: object) -> str:
    """Return a name for all models with the network's layers, sizes and weight shapes under the conditions."""
    kinds = [type(operation).__name__ for operation in network.operations]
    outputs = [list(tensor.shape) for operation in network.operations for tensor in all_outputs(operation)]
    weights = [list(weight.shape) for weight in network.weights]
    text = json.dumps([kinds, outputs, weights, [str(condition) for condition in conditions]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(record: Path | None) -> dict[str, Any]:
    try:
        return read_json(record) if record and record.is_file() else {}
    except MloptimizerError:  # damaged: measure again
        return {}


def _write(record: Path | None, found: Mapping[str, Any]) -> None:
    if record:
        write_json(record, found)
