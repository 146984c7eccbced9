"""The nouns that travel between the parts: plain frozen data, each with its JSON form."""

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
    """What a model is trained for."""

    EXPLORATION = "exploration"
    HALL_OF_FAME = "hall_of_fame"
    TEST_EVALUATION = "test_evaluation"  # the winner's one reading of the test set; nothing is trained

    @property
    def words(self) -> str:
        """Its name in prose, such as hall of fame."""
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
    LOST_WORKER = "lost_worker"  # what ran the process is gone: a machine, or the connection to it
    HUNG = "hung"  # no sign of life for too long
    TIME_LIMIT = "time_limit"  # it trained for longer than a trial may
    SPACE_ERROR = "space_error"  # the search space's `build` raised
    DATA_ERROR = "data_error"
    DISK_FULL = "disk_full"
    INTERRUPTED = "interrupted"  # the person, or the end of the driver, stopped it
    ERROR = "error"  # anything else that training raised


@dataclass(frozen=True)
class Failure:
    """Why a trial failed; `message` is one line, `traceback` the whole story (empty where there is none)."""

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that lies decoded and memory-mapped in `directory`, with its split into training and validation.

    `mean` and `std` have one value per channel, of the training split, on the pixel scale of 0 to 255.
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
    """A share of a machine on which one trial runs at a time."""

    name: str
    host: str = "localhost"
    gpu_ids: tuple[str, ...] = ()  # NVML UUIDs
    cpu_ids: tuple[int, ...] = ()  # logical cores; empty: all
    threads: int = 0  # that a trial uses at most: more than cores where it may borrow those of idle slots; 0: as cores
    gpu_memory_mb: int = 0  # of the smallest of its GPUs, or what it may take of the one that it shares
    gpu_trials: int = 1  # that may run on its GPUs at a time, each on a slot of its own
    memory_mb: int = 0  # its share of the main memory that was free; 0: unknown


@dataclass(frozen=True)
class TrialPlan:
    """Everything that a worker needs to train one model; it can be sent, stored, retried and compared."""

    study: str
    number: int
    phase: Phase
    space: str
    space_source: str  # the text of the search space, so that no shared disk is needed
    params: Params
    dataset: DatasetInfo
    epochs: int
    patience: int
    seed: int
    directory: str  # where the worker writes the trial's model
    initial_weights: str = ""  # path of the weights to start from; empty: new ones
    attempt: int = 1  # counts how often the trial was started
    resumes: bool = False  # go on from the newest whole checkpoint in `directory`, if there is one
    recorded_epochs: int = 0  # of earlier attempts, which the driver knows; a checkpoint may know of more
    accumulation_steps: int = 1  # micro-batches of a step; doubled when an attempt ran out of memory
    steps_per_epoch: int = 0  # at most, for short measurements; 0: as many as the images fill
    profiled: bool = False  # write a TensorBoard profile of the steps 10 to 20
    cache_directory: str = ""  # what the trials of a study share: compiled programs, measured batches; empty: nothing
    settings: Any = field(kw_only=True)  # the study's `Settings`; this room knows only that they are plain data
    tuned: tuple[str, ...] = ()  # names of the settings whose values tuning chose; the person left them to auto


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended; every started trial has exactly one.

    `value` is the best epoch's objective (`metrics` holds that epoch's figures); None unless the outcome is completed.
    `seconds` counts the worker's work on the trial, `timings` its parts in seconds: setup, build, fit, save, and as
    parts of fit first_step, training, validation and checkpoint, what it waited for its checkpoints.
    """

    number: int
    outcome: Outcome
    value: float | None
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    weights: str = ""  # path of the best epoch's weights, empty where none were kept
    micro_batch: int = 0  # images per replica and pass; 0: it ended before that was known
    accumulation_steps: int = 0  # passes of a step
    memory_mb: float = 0.0  # estimated peak memory of a replica; 0: unknown
    attempts: int = 1  # how often the trial was started
    hardware: Mapping[str, float | str | None] = field(default_factory=dict)  # what its hardware log says; see summary


@dataclass(frozen=True)
class Objective:
    """The figure that ranks the trials."""

    metric: str

    @property
    def maximize(self) -> bool:
        return not self.metric.endswith("loss")

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether the value is finite and better than the other; anything finite is better than None."""
        if not math.isfinite(value):
            return False
        return than is None or (value > than if self.maximize else value < than)


def failed(number: int, kind: FailureKind, message: str, seconds: float = 0.0, traceback: str = "") -> TrialResult:
    """Return the result of a trial that failed."""
    return TrialResult(number, Outcome.FAILED, None, seconds, failure=Failure(kind, message, traceback))


def to_json(record: Any) -> dict[str, Any]:
    """Return the dataclass as JSON data; figures that are not finite become None, settings their plain form."""
    return {name: _plain(getattr(record, name)) for name in (f.name for f in dataclasses.fields(record))}


def dataset_from_json(value: Mapping[str, Any]) -> DatasetInfo:
    """Return the data set whose `to_json` is the value. Raises UsageError where it is none."""
    try:
        return TypeAdapter(DatasetInfo).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"plan.json: its data set is damaged ({first_fault(error)}). Restore it.") from error


def result_from_json(value: Mapping[str, Any]) -> TrialResult:
    """Return the result whose `to_json` is the value; what else stands there is left out.

    Raises:
        UsageError: it is none.
    """
    names = {field.name for field in dataclasses.fields(TrialResult)}
    known = {name: item for name, item in value.items() if name in names}
    figures = known.get("metrics") or {}
    metrics = {name: item for name, item in figures.items() if item is not None}  # they were not finite
    try:
        return TypeAdapter(TrialResult).validate_python({**known, "metrics": metrics})
    except ValidationError as error:
        place = f"result.json of trial {known.get('number', '?')}"
        raise UsageError(f"{place}: is damaged ({first_fault(error)}). Restore it or remove it.") from error


def first_fault(error: ValidationError) -> str:
    """Return what is wrong first, and where."""
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
