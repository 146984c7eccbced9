"""Takes checkpoints of a training, and resumes an interrupted training from the newest.

Guarantees: a resumed training gives the metrics of an uninterrupted one. The state is copied after every callback has
handled the epoch, and another thread writes it, one checkpoint at a time. A checkpoint never ends a training: one that
is damaged, or of another training, is passed over for the one before; one that cannot be written is skipped. Both are
reported.
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
from mloptimizer.training.callbacks import EpochMetrics
from mloptimizer.training.checkpoints import checkpoint_files as files
from mloptimizer.training.checkpoints.checkpoint_files import Checkpoint, DamagedCheckpoint, PartState
from mloptimizer.training.devices import Decide
from mloptimizer.training.step.schedule import Steps
from mloptimizer.training.step.stability import snapshot_variables

FILES_KEPT = 2
_BYTES_OF_A_VALUE = 8  # at most
_TOPIC = "checkpoint"  # of the decisions
# Devices are not among them: a training may resume elsewhere, with other rounding.
SHAPING_SETTINGS = ("objective", *Settings.names("training"))


class Part(Protocol):
    """A companion of the training that remembers something from epoch to epoch."""

    def get_state(self) -> PartState:
        """Return plain JSON values, and arrays that will not change."""

    def set_state(self, state: PartState) -> None:
        """Restore what `get_state` returned."""


def identify_training(plan: TrialPlan, steps: Steps) -> dict[str, Any]:
    """Return what a training must share with a checkpoint to resume from it."""
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
    """Everything that changes during a training: the variables of the model, and the states of its companions."""

    def __init__(self, model: Any, network: Any, parts: Mapping[str, Part]) -> None:
        """Take the companions by name; `best` may hold the network's weights, `go_back` a snapshot."""
        self._model = model
        self._parts = parts
        self._variables = _Variables(model)
        self._shapes = {"best": _shapes(network.weights), "go_back": _shapes(snapshot_variables(model))}
        values = sum(math.prod(shape) for shapes in self._shapes.values() for shape in shapes)
        self.most_bytes = self._variables.count_bytes() + _BYTES_OF_A_VALUE * values  # of a checkpoint's arrays

    def take(self, epoch: int, identity: Mapping[str, Any]) -> Checkpoint:
        """Return a copy of the state after this many epochs."""
        states: dict[str, PartState] = {"model": ({"steps_run": self._model.steps_run}, self._variables.take())}
        states |= {name: part.get_state() for name, part in self._parts.items()}
        values = {name: plain for name, (plain, _) in states.items()}
        arrays = {name: found for name, (_, found) in states.items()}
        return Checkpoint(epoch, identity, values, arrays)

    def find_misfit(self, checkpoint: Checkpoint) -> str:
        """Return why the checkpoint does not fit this training; empty if it does."""
        if set(checkpoint.values) != {"model", *self._parts} or set(checkpoint.arrays) != set(checkpoint.values):
            return f"it has the parts {', '.join(checkpoint.values)}"
        if not files.is_like(checkpoint.values["model"], {"steps_run": 0}):
            return "it does not say how many steps were run"
        for name, part in self._parts.items():
            if not files.is_like(checkpoint.values[name], part.get_state()[0]):
                return f"its part '{name}' has other values"
            if (shapes := _shapes(checkpoint.arrays[name])) and shapes != self._shapes.get(name):
                return f"the arrays of its part '{name}' have other shapes"
        return self._variables.find_misfit(checkpoint.arrays["model"])

    def put_back(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint that fits."""
        self._variables.put_back(checkpoint.arrays["model"])
        self._model.steps_run = checkpoint.values["model"]["steps_run"]
        for name, part in self._parts.items():
            part.set_state((checkpoint.values[name], checkpoint.arrays[name]))


class _Variables:
    """The variables of a model on every replica, with random seeds, optimizer and guard.

    Weights are equal on all replicas and are read from the first; statistics and seeds may differ.
    """

    def __init__(self, model: Any) -> None:
        metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
        trained = {id(variable) for variable in model.trainable_variables}
        apart = [variable for variable in model.variables if id(variable) not in trained | metrics]
        equal = [variable for variable in model.variables if id(variable) in trained - metrics]
        values = [variable.value for variable in (*apart, *equal, *model.optimizer.variables)]
        find = model.distribute_strategy.experimental_local_results
        self._copies = [find(value) for value in (*values, model.guard.variable)]
        self._apart = len(apart)

    def count_bytes(self) -> int:
        """Return an upper bound for the arrays of `take`."""
        return _BYTES_OF_A_VALUE * sum(len(copies) * math.prod(copies[0].shape) for copies in self._copies)

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
    equal = all(np.array_equal(values[0], value) for value in values[1:])
    return values[0][np.newaxis] if equal else np.stack(values)


def _shapes(arrays: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(array.shape) for array in arrays]


def resume_training(folder: Path, identity: Mapping[str, Any], state: TrainingState, decide: Decide) -> int:
    """Restore the newest checkpoint that is whole and fits, and return how many epochs are done; 0 without one.

    The checkpoints passed over are reported and removed.
    """
    paths = files.list_checkpoints(folder)
    for index, path in enumerate(paths):
        try:
            checkpoint = files.read_checkpoint(path, state.most_bytes)
            found = checkpoint.identity
            other = next((name for name, value in identity.items() if found.get(name) != value), "")
            different = f"it is of another training: {other} {found.get(other)}, not {identity.get(other)}"
            reason = different if other else state.find_misfit(checkpoint)
        except DamagedCheckpoint as damage:
            reason = str(damage)
        if not reason:
            state.put_back(checkpoint)
            files.keep_only(folder, paths[index:])
            decide(_TOPIC, f"on from epoch {checkpoint.epoch}", f"{path.name} is the newest that is whole and fits")
            return checkpoint.epoch
        decide(_TOPIC, f"{path.name} passed over", reason)
    files.keep_only(folder, [])
    decide(_TOPIC, "from the start", "no checkpoint is whole and fits" if paths else "there is no checkpoint")
    return 0


class CheckpointWriter:
    """Writes checkpoints in its own thread, one at a time, and removes all but the newest two."""

    def __init__(self, folder: Path, decide: Decide) -> None:
        self._folder = folder
        self._decide = decide
        self._thread: threading.Thread | None = None
        self._error = ""  # of the last checkpoint
        self._reported = False

    def write(self, checkpoint: Checkpoint) -> None:
        """Start to write once the previous checkpoint is written."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(checkpoint,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the checkpoint is written; of failures in a row, report the first."""
        if self._thread:
            self._thread.join()
            self._thread = None
            self.skip(self._error)

    def skip(self, reason: str) -> None:
        """Report why there is no checkpoint this time, once for several in a row; an empty reason: there is one."""
        if reason and not self._reported:
            self._decide(_TOPIC, "skipped", reason)
        self._reported = bool(reason)

    def _write(self, checkpoint: Checkpoint) -> None:
        self._error = ""
        try:
            files.write_checkpoint(files.checkpoint_path(self._folder, checkpoint.epoch), checkpoint)
            files.keep_only(self._folder, files.list_checkpoints(self._folder)[:FILES_KEPT])
        except Exception as error:  # noqa: BLE001  (the training does not need the file)
            self._error = f"{type(error).__name__}: {in_a_line(error)}"


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint every Nth epoch and after the last; comes after every callback that handles an epoch.

    It acts when the next epoch begins: then a bad epoch is undone, and the weights are no longer the moving average.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        take: Callable[[int], Checkpoint],
        every: int,
        metrics: EpochMetrics,
        timed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`take` copies the state after an epoch; `timed` measures the time, which images per second leave out."""
        super().__init__()
        self._writer, self._take, self._timed = writer, take, timed
        self._every, self._metrics = every, metrics
        self._epochs_done = 0  # including those before it resumed; 0 until an epoch has ended since

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch % self._every == 0:
            self.on_train_end()
            self._metrics.start_timing()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs_done = epoch + 1

    def on_train_end(self, logs: Any = None) -> None:
        if self._epochs_done:
            with self._timed():
                try:
                    self._writer.write(self._take(self._epochs_done))
                except MemoryError:
                    self._writer.skip("there is not enough memory for a copy")
