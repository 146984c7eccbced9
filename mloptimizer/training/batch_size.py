"""Finds the fastest batch that fits by measuring a few steps of each, once for every shape of a model.

Guarantees: what was measured is kept in the folder that the trials of a study share, whole, and is measured again only
for another shape of the model, number format, device or number of replicas. Nothing is measured on the weights that are
trained afterwards.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mloptimizer.errors import MloptimizerError
from mloptimizer.files import read_json, write_json
from mloptimizer.training.devices import Decide, Devices

SMALLEST = 16  # images per replica
NEARLY_AS_FAST = 0.95  # of the fastest: of such batches the smallest is taken, as it makes the most steps of an epoch
ROUNDS = 3  # the quickest counts, as whatever else the machine does only makes them slower
SECONDS_A_ROUND = 0.2
STEPS_A_ROUND = 3, 20  # fewest and most

_log = logging.getLogger(__name__)


def candidate_batches(largest: int, fits: Callable[[int], bool]) -> list[int]:
    """Return the batches to measure: powers of two up to the largest, as far as they are estimated to fit.

    There is always one. On a CPU a step that runs out of memory may take the process with it, so the estimate counts.
    """
    sizes = [2**power for power in range(int(math.log2(SMALLEST)), int(math.log2(max(largest, SMALLEST))) + 1)]
    sizes = [size for size in sizes if size <= largest] or [largest]
    return [size for size in sizes if fits(size)] or sizes[:1]


def choose_batch_size(
    measure: Callable[[int], float], candidates: Sequence[int], cache_directory: str, key: str, decide: Decide
) -> int:
    """Return the smallest of the batches that is nearly as fast as the fastest, as measured now or earlier.

    The search ends with the first that does not fit, and when two in a row are slower than the fastest.

    Args:
        measure: takes images per replica; returns images per second.
        candidates: images per replica, ascending.
        cache_directory: where figures are kept; empty: nowhere.
        key: names the shape of the model and all else that the figures depend on: see `shape_key`.

    Raises:
        MemoryError, tf.errors.ResourceExhaustedError: not even the first fits.
    """
    path = Path(cache_directory) / "batch_sizes" / f"{key}.json" if cache_directory else None
    speeds, source = _read_speeds(path), "measured by an earlier trial"
    if not speeds:
        speeds, source = _measure_all(measure, candidates), "measured"
        if path is not None:
            _write_speeds(path, speeds)
    enough = NEARLY_AS_FAST * max(speeds.values())
    chosen = min(batch for batch, speed in speeds.items() if speed >= enough)
    figures = ", ".join(f"{batch}: {speed:,.0f}" for batch, speed in speeds.items())
    decide("batch size", str(chosen), f"images a second, {source}: {figures}; the smallest within 5 % of the fastest")
    return chosen


def _measure_all(measure: Callable[[int], float], candidates: Sequence[int]) -> dict[int, float]:
    speeds: dict[int, float] = {}
    slower = 0
    for batch in candidates:
        try:
            speed = measure(batch)
        except (MemoryError, tf.errors.ResourceExhaustedError):
            if not speeds:
                raise
            break
        slower = slower + 1 if speed < max(speeds.values(), default=0.0) else 0
        speeds[batch] = speed
        if slower == 2:
            break
    return speeds


def _read_speeds(path: Path | None) -> dict[int, float]:
    """Return the kept figures; none where the file is missing or damaged, which measuring again mends."""
    if path is None or not path.is_file():
        return {}
    try:
        kept = read_json(path)["images_per_second"]
        return {int(batch): float(speed) for batch, speed in kept.items()}
    except (MloptimizerError, AttributeError, LookupError, TypeError, ValueError) as error:
        _log.warning("%s: is measured again (%s)", path, error)
        return {}


def _write_speeds(path: Path, speeds: Mapping[int, float]) -> None:
    try:
        write_json(path, {"images_per_second": {str(batch): speed for batch, speed in speeds.items()}})
    except MloptimizerError as error:  # the next trial measures again
        _log.warning("%s", error)


def shape_key(network: Any, *circumstances: object) -> str:
    """Return a text that is the same for models of the same shape under the same circumstances.

    The shape is the layers' kinds, outputs and weights in their order; names and values do not count.
    """
    layers = [
        (
            type(layer).__name__,
            [list(output.shape) for output in tf.nest.flatten(layer.output)] if layer._inbound_nodes else [],
            [list(weight.shape) for weight in layer.weights],
        )
        for layer in network.operations
    ]
    text = json.dumps([layers, [str(circumstance) for circumstance in circumstances]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure_speed(run_steps: Callable[[int, int], float], batch: int) -> float:
    """Return the images per second and replica of training steps of this batch.

    Args:
        run_steps: takes images per replica and a number of steps, runs them and returns the seconds that they took.
    """
    run_steps(batch, 1)  # traces and compiles
    fewest, most = STEPS_A_ROUND
    steps = min(most, max(fewest, math.ceil(SECONDS_A_ROUND / max(run_steps(batch, 1), 1e-6))))
    return batch * steps / max(min(run_steps(batch, steps) for _ in range(ROUNDS)), 1e-9)


class StepRunner:
    """Runs training steps of throw-away models on random images; its call is the `run_steps` of `measure_speed`."""

    def __init__(self, build: Callable[[int], Any], shape: Sequence[int], classes: int, devices: Devices) -> None:
        """Prepare to run steps.

        Args:
            build: makes a compiled `TrainableModel` with weights of its own for so many images per replica.
            shape: of an image.
        """
        self._build = build
        self._shape, self._classes, self._devices = shape, classes, devices
        self._batch, self._model, self._data = 0, None, None

    def __call__(self, batch: int, steps: int) -> float:
        """Run the steps, on so many images per replica each; return the seconds that they took."""
        if batch != self._batch:
            self._model = self._data = None  # their memory is free before the next take theirs
            self._model, self._data = self._build(batch), self._make_data(batch * self._devices.replicas)
            self._batch = batch
        train = self._model.make_train_function()
        begun = time.perf_counter()
        for _ in range(steps):
            train(self._data)
        self._model.figures()  # waits until the last step is done
        return time.perf_counter() - begun

    def _make_data(self, images: int) -> Any:
        generator = tf.random.Generator.from_seed(0)
        with tf.device("CPU:0"):
            pixels = generator.normal((images, *self._shape))
            targets = tf.one_hot(tf.range(images) % self._classes, self._classes)
        batches = tf.data.Dataset.from_tensors((pixels, targets)).repeat()
        strategy = self._devices.strategy
        return iter(strategy.experimental_distribute_dataset(batches) if strategy else batches)
