"""Takes checkpoints of a training, and brings a training that was cut off back to its last one.

Guarantees: a training that goes on gives the figures of one that was never cut off. A checkpoint is copied when
everything has acted on the ended epoch, and written by another thread, one at a time; `CheckpointWriter.wait` returns
when it is on the disk. What goes wrong with a checkpoint is told and never ends a training: one that is damaged, or of
another training, is passed over for the one before, and where one cannot be written, those before stay.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import TrialPlan
from mloptimizer.core.words import in_a_line
from mloptimizer.training.callbacks import EpochFigures
from mloptimizer.training.checkpoints.checkpoint_files import (
    Checkpoint,
    DamagedCheckpoint,
    Kept,
    checkpoint_path,
    is_like,
    keep_only,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from mloptimizer.training.devices import Decide
from mloptimizer.training.step.schedule import Steps
from mloptimizer.training.step.stability import snapshot_variables

FILES_KEPT = 2
_BYTES_OF_A_VALUE = 8  # at most
_TOPIC = "checkpoint"  # of what is decided
# Where a training differs on other devices only in rounding, it may go on. What else is of the study's identity stands
# in the plan.
SHAPING_SETTINGS = ("objective", *Settings.names("training"))


class Part(Protocol):
    """What follows a training and remembers something from epoch to epoch."""

    def kept(self) -> Kept:
        """Return plain JSON values and arrays, which do not change any more."""
        ...

    def take_back(self, kept: Kept) -> None:
        """Be as it was when `kept` was returned."""
        ...


def identify_training(plan: TrialPlan, steps: Steps) -> dict[str, Any]:
    """Return what a training has in common with those that may go on from its checkpoints."""
    settings = plan.settings.model_dump(include=set(SHAPING_SETTINGS))
    data = plan.dataset
    split = (data.fingerprint, data.split_seed, data.validation_fraction, data.train_limit, data.train_size)
    shape = (plan.space_source, dict(plan.params), plan.epochs, plan.patience, bool(plan.initial_weights))
    text = json.dumps([*shape, *split, settings], sort_keys=True)
    return {
        "study": plan.study,
        "number": plan.number,
        "phase": plan.phase.value,
        "seed": plan.seed,
        "global batch": steps.global_batch,
        "steps per epoch": steps.per_epoch,
        "space, parameters, data and settings": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


class TrainingState:
    """All that changes while a model trains: its variables, and those of what follows it."""

    def __init__(self, model: Any, network: Any, parts: Mapping[str, Part]) -> None:
        """Take the parts by name; `best` may keep the network's weights, `go_back` a snapshot's values."""
        self._model = model
        self._parts = parts
        self._variables = _Variables(model)
        self._shapes = {"best": _shapes(network.weights), "go_back": _shapes(snapshot_variables(model))}
        values = sum(math.prod(shape) for shapes in self._shapes.values() for shape in shapes)
        self.most_bytes = self._variables.count_bytes() + _BYTES_OF_A_VALUE * values  # that its arrays can have

    def take(self, epoch: int, identity: Mapping[str, Any]) -> Checkpoint:
        """Return a copy of the state after so many epochs."""
        kept = {name: part.kept() for name, part in self._parts.items()}
        values = {"model": {"steps_run": self._model.steps_run}} | {name: plain for name, (plain, _) in kept.items()}
        arrays = {"model": self._variables.take()} | {name: arrays for name, (_, arrays) in kept.items()}
        return Checkpoint(epoch, identity, values, arrays)

    def find_misfit(self, checkpoint: Checkpoint) -> str:
        """Say why the state cannot be that of the checkpoint; empty where it can."""
        if set(checkpoint.values) != {"model", *self._parts} or set(checkpoint.arrays) != set(checkpoint.values):
            return f"it has the parts {', '.join(checkpoint.values)}"
        if not is_like(checkpoint.values["model"], {"steps_run": 0}):
            return "it does not tell the steps that were made"
        for name, part in self._parts.items():
            if not is_like(checkpoint.values[name], part.kept()[0]):
                return f"its part '{name}' has other values"
            if (shapes := _shapes(checkpoint.arrays[name])) and shapes != self._shapes.get(name):
                return f"the arrays of its part '{name}' have other shapes"
        return self._variables.find_misfit(checkpoint.arrays["model"])

    def put_back(self, checkpoint: Checkpoint) -> None:
        """Bring the state back to a checkpoint that fits."""
        self._variables.put_back(checkpoint.arrays["model"])
        self._model.steps_run = checkpoint.values["model"]["steps_run"]
        for name, part in self._parts.items():
            part.take_back((checkpoint.values[name], checkpoint.arrays[name]))


class _Variables:
    """The variables of a model, with its random seeds, its optimizer and its guard, on every replica.

    What every replica updates alike is read from the first; statistics and seeds may differ, and are kept apart then.
    """

    def __init__(self, model: Any) -> None:
        counted = {id(variable) for metric in model.metrics for variable in metric.variables}
        trained = {id(variable) for variable in model.trainable_variables}
        own = [variable for variable in model.variables if id(variable) not in counted]
        alike = [variable for variable in own if id(variable) in trained]
        apart = [variable for variable in own if id(variable) not in trained]
        values = [variable.value for variable in (*apart, *alike, *model.optimizer.variables)]
        find = model.distribute_strategy.experimental_local_results
        self._copies = [find(value) for value in (*values, model.guard.variable)]
        self._apart = len(apart)

    def count_bytes(self) -> int:
        """Return what the arrays of `take` have at most."""
        values = sum(len(copies) * math.prod(copies[0].shape) for copies in self._copies)
        return _BYTES_OF_A_VALUE * values

    def take(self) -> list[np.ndarray]:
        """Return the values as arrays of (1, or replicas where these differ; shape of the variable)."""
        read = [copies if index < self._apart else copies[:1] for index, copies in enumerate(self._copies)]
        return [_join([tf.convert_to_tensor(copy).numpy() for copy in copies]) for copies in read]

    def find_misfit(self, arrays: Sequence[np.ndarray]) -> str:
        if len(arrays) != len(self._copies):
            return f"it is of a model with {len(arrays)} variables, not {len(self._copies)}"
        for array, copies in zip(arrays, self._copies, strict=True):
            shape, dtype = tuple(copies[0].shape), copies[0].dtype.name
            if (array.shape[1:], array.dtype.name) != (shape, dtype):
                return f"a variable in it is {array.dtype.name} {array.shape[1:]}, not {dtype} {shape}"
            if array.shape[0] not in (1, len(copies)):
                return f"it is of {array.shape[0]} replicas that differ, and there are {len(copies)}"
        return ""

    def put_back(self, arrays: Sequence[np.ndarray]) -> None:
        for array, copies in zip(arrays, self._copies, strict=True):
            for index, copy in enumerate(copies):
                copy.assign(array[index if len(array) > 1 else 0])


def _join(values: list[np.ndarray]) -> np.ndarray:
    if all(np.array_equal(values[0], value) for value in values[1:]):
        return values[0][np.newaxis]
    return np.stack(values)


def _shapes(arrays: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(array.shape) for array in arrays]


def resume_training(folder: Path, identity: Mapping[str, Any], state: TrainingState, decide: Decide) -> int:
    """Bring the state back to the newest checkpoint that is whole and fits, and return how many epochs are done.

    Without one the state stays, and that is 0. What is passed over is told, and removed.
    """
    paths = list_checkpoints(folder)
    for index, path in enumerate(paths):
        try:
            checkpoint = read_checkpoint(path, state.most_bytes)
            reason = _find_difference(checkpoint.identity, identity) or state.find_misfit(checkpoint)
        except DamagedCheckpoint as damage:
            reason = str(damage)
        if not reason:
            state.put_back(checkpoint)
            keep_only(folder, paths[index:])
            decide(_TOPIC, f"on from epoch {checkpoint.epoch}", f"{path.name} is the newest that is whole and fits")
            return checkpoint.epoch
        decide(_TOPIC, f"{path.name} passed over", reason)
    keep_only(folder, [])
    decide(_TOPIC, "from the start", "none is whole and fits" if paths else "there is none")
    return 0


def _find_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"it is of another training: {name} {found.get(name)}, not {value}"
    return ""


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, one at a time, and removes all but the newest two."""

    def __init__(self, folder: Path, decide: Decide) -> None:
        self._folder = folder
        self._decide = decide
        self._thread: threading.Thread | None = None
        self._error = ""  # what went wrong with the last one
        self._told = False

    def write(self, checkpoint: Checkpoint) -> None:
        """Begin to write, when the one before is written."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(checkpoint,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written any more; tell why it could not be, once for several in a row."""
        if self._thread:
            self._thread.join()
            self._thread = None
            self._tell()

    def skip(self, reason: str) -> None:
        """Tell that there is no checkpoint this time."""
        self._error = reason
        self._tell()

    def _tell(self) -> None:
        if self._error and not self._told:
            self._decide(_TOPIC, "skipped", self._error)
        self._told = bool(self._error)

    def _write(self, checkpoint: Checkpoint) -> None:
        self._error = ""
        try:
            write_checkpoint(checkpoint_path(self._folder, checkpoint.epoch), checkpoint)
            keep_only(self._folder, list_checkpoints(self._folder)[:FILES_KEPT])
        except Exception as error:  # noqa: BLE001  (whatever it is: the training does not need the file)
            self._error = f"{type(error).__name__}: {in_a_line(error)}"


class Checkpoints(keras.callbacks.Callback):
    """Has a checkpoint written of every so-manieth epoch, and of the last; stands behind all that acts on an epoch.

    That is when the next one begins: what was bad about an epoch is then undone, and the moving average back in place.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        take: Callable[[int], Checkpoint],
        every: int,
        figures: EpochFigures,
        timed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Take what copies the state after so many epochs, and what counts the time that this takes.

        It is left out of the images per second.
        """
        super().__init__()
        self._writer = writer
        self._copy = take
        self._every = every
        self._figures = figures
        self._timed = timed
        self._epochs_done = 0  # with those before it went on; 0 until one has ended since

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._epochs_done and epoch % self._every == 0:
            self._take()
            self._figures.start_timing()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs_done = epoch + 1

    def on_train_end(self, logs: Any = None) -> None:
        if self._epochs_done:
            self._take()

    def _take(self) -> None:
        with self._timed():
            try:
                self._writer.write(self._copy(self._epochs_done))
            except MemoryError:
                self._writer.skip("there is not enough memory for a copy")
