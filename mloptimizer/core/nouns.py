"""The data that travels between the rooms: plain and frozen, each with its JSON form."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from mloptimizer.core.errors import UsageError

Scalar = bool | int | float | str
Params = Mapping[str, Scalar]


class Phase(StrEnum):
    """Why a model is trained or evaluated."""

    EXPLORATION = "exploration"
    HALL_OF_FAME = "hall_of_fame"
    TEST_EVALUATION = "test_evaluation"  # the winner reads the test set once; nothing is trained

    @property
    def words(self) -> str:
        """Its name in prose, for example hall of fame."""
        return self.value.replace("_", " ")


TRAINED_PHASES = (Phase.EXPLORATION, Phase.HALL_OF_FAME)  # in their order


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"


class FailureKind(StrEnum):
    """Why a trial failed."""

    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE = "non_finite"
    CRASH = "crash"  # the process died: a signal or an exit code
    LOST_WORKER = "lost_worker"  # its machine, or the connection to it, is gone
    HUNG = "hung"  # no sign of life for too long
    TIME_LIMIT = "time_limit"  # it trained longer than a trial may
    SPACE_ERROR = "space_error"  # the search space's `build` raised
    DATA_ERROR = "data_error"
    DISK_FULL = "disk_full"
    INTERRUPTED = "interrupted"  # by the person, or by the end of the driver
    ERROR = "error"  # anything else that training raised


@dataclass(frozen=True)
class Failure:
    """Why a trial failed; `message` is one line, `traceback` may be empty."""

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set, decoded in `directory` for memory mapping, with its split into training and validation.

    `mean` and `std` have one value per channel, from the training split, on the pixel scale of 0 to 255.
    """

    name: str
    task: Literal["classification"]
    input_shape: tuple[int, int, int]  # height, width, channels
    classes: int
    class_names: tuple[str, ...]
    train_size: int
    validation_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str  # of the decoded images and labels
    directory: str
    split_seed: int
    validation_fraction: float
    train_limit: int  # 0: all


@dataclass(frozen=True)
class Slot:
    """A share of a machine; one trial at a time runs on it."""

    name: str
    host: str = "localhost"
    gpu_ids: tuple[str, ...] = ()  # NVML UUIDs
    cpu_ids: tuple[int, ...] = ()  # logical cores; empty: all
    threads: int = 0  # maximum for a trial, which may borrow cores of idle slots; 0: as many as its cores
    gpu_memory_mb: int = 0  # of its smallest GPU, or its share of a shared one
    gpu_trials: int = 1  # that run on its GPUs at a time, each on its own slot
    memory_mb: int = 0  # its share of free main memory; 0: unknown


@dataclass(frozen=True)
class TrialPlan:
    """Everything that a worker needs to train one model; it can be sent, stored, retried and compared."""

    study: str
    number: int
    phase: Phase
    space: str
    space_source: str  # text of the search space, so that workers need no shared disk
    params: Params
    dataset: DatasetInfo
    epochs: int
    patience: int
    seed: int
    directory: str  # the worker writes the trial's model here
    initial_weights: str = ""  # path of the weights to start from; empty: new ones
    attempt: int = 1  # starts of the trial so far, with this one
    resumes: bool = False  # continue from the newest whole checkpoint in `directory`, if any
    recorded_epochs: int = 0  # by the driver, from earlier attempts; a checkpoint may hold more
    accumulation_steps: int = 1  # micro-batches per step; doubled when an attempt runs out of memory
    steps_per_epoch: int = 0  # limit for short measurements; 0: all images
    profiled: bool = False  # write a TensorBoard profile of steps 10 to 20
    cache_directory: str = ""  # shared by a study's trials: compiled programs, measured batch sizes; empty: none
    settings: Any = field(kw_only=True)  # the study's `Settings`, which this room cannot import
    tuned: tuple[str, ...] = ()  # settings that the person left at auto and tuning chose


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended; every started trial has exactly one.

    `value` is the objective of the best epoch (`metrics` are that epoch's), or None unless the outcome is completed.
    `seconds` is the worker's time on the trial, `timings` its parts in seconds: setup, build, fit and save; within fit,
    first_step, training, validation and checkpoint (waiting for checkpoints).
    """

    number: int
    outcome: Outcome
    value: float | None
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    weights: str = ""  # path of the best epoch's weights; empty: none were kept
    micro_batch: int = 0  # images per replica and pass; 0: the trial ended before it was known
    accumulation_steps: int = 0  # passes per step
    memory_mb: float = 0.0  # estimated peak memory of a replica; 0: unknown
    attempts: int = 1  # starts of the trial
    hardware: Mapping[str, float | str | None] = field(default_factory=dict)  # summary of its hardware log


@dataclass(frozen=True)
class Objective:
    """The metric that ranks the trials."""

    metric: str

    @property
    def maximize(self) -> bool:
        return not self.metric.endswith("loss")

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether the value is finite and better than the other; any finite value is better than None."""
        return math.isfinite(value) and (than is None or (value > than if self.maximize else value < than))


def failed(number: int, kind: FailureKind, message: str, seconds: float = 0.0, traceback: str = "") -> TrialResult:
    """Return the result of a trial that failed."""
    return TrialResult(number, Outcome.FAILED, None, seconds, failure=Failure(kind, message, traceback))


def to_json(record: Any) -> dict[str, Any]:
    """Return the dataclass as JSON data; NaN and infinities become None, settings a plain object."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def dataset_from_json(value: Mapping[str, Any]) -> DatasetInfo:
    """Return the data set from its `to_json`. Raises UsageError if it is damaged."""
    try:
        return TypeAdapter(DatasetInfo).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"plan.json: its data set is damaged ({first_fault(error)}). Restore it.") from error


def result_from_json(value: Mapping[str, Any]) -> TrialResult:
    """Return the result from its `to_json`, ignoring other fields. Raises UsageError if it is damaged."""
    metrics = {
        name: item for name, item in (value.get("metrics") or {}).items() if item is not None
    }  # None: not finite
    try:
        return TypeAdapter(TrialResult).validate_python({**value, "metrics": metrics})
    except ValidationError as error:
        place = f"result.json of trial {value.get('number', '?')}"
        raise UsageError(f"{place}: is damaged ({first_fault(error)}). Restore it or remove it.") from error


def first_fault(error: ValidationError) -> str:
    """Return the first fault, and where it is."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
