"""Measures short trainings, each in a process of its own: their speed, their memory, and how busy the machine was.

Guarantees: a training that fails, or cannot run on this machine, is a measurement that says why. A measured training
leaves nothing on the disk.
"""

import contextlib
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, EpochRecord, Event, HardwareSample
from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.nouns import DatasetInfo, Params, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.deadlines import Absence, Deadlines
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.engines.slots import plan_slots
from mloptimizer.hardware.analysis.energy import cpu_watts, gpu_watts
from mloptimizer.hardware.columns import Row
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.read.machine_facts import cpu_model, describe_machine, group_gpus
from mloptimizer.hardware.read.nvml import Gpu, list_gpus
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.training.worker import PRELOAD, run_plan

_WAIT_SECONDS = 0.5
_SHORT = {"storage": "", "monitor_seconds": 0.5, "checkpoint_epochs": 0}  # settings of measured trainings
SEED = 0  # of every measured training: all of them see the same images in the same order


@dataclass(frozen=True)
class Machine:
    """What trainings are measured on."""

    gpus: tuple[Gpu, ...]
    cpu: str  # its model
    cores: int
    find_slot: Callable[[Settings], Slot]  # that a training with these settings gets; UsageError: they ask for too much
    make_engine: Callable[[Settings], Engine]  # with only that slot

    def describe(self) -> str:
        """Return its GPUs, or its cores, as text."""
        return describe_machine({"gpus": group_gpus(self.gpus), "cores": self.cores, "cpu": self.cpu})


@dataclass(frozen=True)
class Workload:
    """The training that is measured; between two measurements only the settings differ."""

    space: SearchSpace
    params: Params
    dataset: DatasetInfo
    epochs: int
    steps_per_epoch: int = 0  # at most; 0: as many as the images fill
    accumulation_steps: int = 1  # that the model is known to need
    target_accuracy: float = 1.0  # on the validation split; the time to it is measured


@dataclass(frozen=True)
class Variant:
    """Settings to measure under a name; `changes` are those in which they differ from what they are compared with."""

    name: str
    settings: Settings
    changes: Mapping[str, object] = field(default_factory=dict)
    impossible: str = ""  # why it cannot be tried on this machine


@dataclass(frozen=True)
class Measurement:
    """What was measured of one training; None: it could not be. One MB is 2**20 bytes."""

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    images_per_second: float | None = None  # of training alone, median of the epochs after the first
    seconds_per_epoch: float | None = None  # with validation, median of the epochs after the first
    startup_seconds: float | None = None  # data, model, tracing and compiling: all but the epochs at their steady pace
    seconds_to_target: float | None = None  # from the start to the end of the epoch that reached it
    val_accuracy: float | None = None  # of the best epoch
    peak_memory_mb: float | None = None  # resident, of the training's processes
    gpu_memory_mb: float | None = None  # of the GPU that had most in use
    cpu_percent: float | None = None  # of a core, mean after the first epoch
    gpu_percent: float | None = None  # mean over the GPUs, after the first epoch
    gpu_power_w: float | None = None  # of all its GPUs together, mean after the first epoch
    cpu_power_w: float | None = None  # of the machine's CPU packages, mean after the first epoch
    data_wait_percent: float | None = None  # share of an epoch in which the device waited for images
    choices: Mapping[str, str] = field(default_factory=dict)  # what was chosen automatically, by topic
    failure: str = ""  # why nothing was measured

    def images_per_second_over(self, images: float) -> float:
        """Return the images per second of a whole training on this many images, 0 if it failed.

        That is ``images / (startup_seconds + images / images_per_second)``, which weighs the cost of compiling against
        the time that it saves.
        """
        if not self.images_per_second:
            return 0.0
        return images / ((self.startup_seconds or 0.0) + images / self.images_per_second)


def this_machine() -> Machine:
    """Return the machine that this process runs on; trainings run in processes of their own."""
    gpus = tuple(list_gpus())

    def find_slot(settings: Settings) -> Slot:
        # On GPUs a training has the same share of the cores as in a search; without GPUs it has all of them.
        mine = settings if gpus else settings.model_copy(update={"workers": 1})
        return plan_slots(gpus, list_cpus(), available_memory_mb(), settings.trials, mine)[0][0]

    def make_engine(settings: Settings) -> Engine:
        return ProcessEngine([find_slot(settings)], run_plan, settings.start_method, PRELOAD)

    return Machine(gpus, cpu_model(), len(list_cpus()), find_slot, make_engine)


def measure(
    workload: Workload, variant: Variant, machine: Machine, waiting: Interruptible = contextlib.nullcontext
) -> Measurement:
    """Train once with the variant's settings; return the measurement. `waiting` may abort it by raising."""
    if variant.impossible:
        return Measurement(variant.name, variant.changes, failure=f"not measured: {variant.impossible}")
    with tempfile.TemporaryDirectory(prefix="mloptimizer-") as folder:
        plan = _plan(workload, variant.settings.model_copy(update=_SHORT), folder)
        with contextlib.closing(machine.make_engine(variant.settings)) as engine:
            events = _run(plan, engine, waiting)
    return _summarise(workload, variant, events)


def _plan(workload: Workload, settings: Settings, folder: str) -> TrialPlan:
    return TrialPlan(
        study="measurement",
        number=0,
        phase=Phase.EXPLORATION,
        space=workload.space.name,
        space_source=workload.space.source,
        params=workload.params,
        dataset=workload.dataset,
        epochs=workload.epochs,
        patience=workload.epochs,
        seed=SEED,
        directory=folder,
        accumulation_steps=workload.accumulation_steps,
        steps_per_epoch=workload.steps_per_epoch,
        settings=settings,
    )


def _run(plan: TrialPlan, engine: Engine, waiting: Interruptible) -> list[Event]:
    with waiting():
        engine.start(plan, engine.idle_slots()[0])
    deadlines, absence = Deadlines(plan.settings, time.monotonic), Absence()
    deadlines.start(plan.number, 0.0)  # GPUs that cannot talk to one another hang
    events: list[Event] = []
    while not any(isinstance(event, TrialResult) for event in events):
        with waiting():
            fresh = engine.wait(_WAIT_SECONDS)
        deadlines.hold(absence.seconds())
        for event in fresh:
            deadlines.hear(event)
        overdue = deadlines.find_overdue()
        events += [*fresh, *(failed(number, failure.kind, failure.message) for number, failure in overdue)]
    return events


def _summarise(workload: Workload, variant: Variant, events: Sequence[Event]) -> Measurement:
    """Return the measurement from the events of a training."""
    result = next(event for event in events if isinstance(event, TrialResult))
    epochs = [event for event in events if isinstance(event, EpochRecord)]
    choices = {event.topic: event.choice for event in events if isinstance(event, Decision)}
    if result.failure or not epochs:
        return Measurement(variant.name, variant.changes, choices=choices, failure=_describe(result))
    steady = epochs[1:] or epochs
    rows = [event.row for event in events if isinstance(event, HardwareSample)]
    late = [event.row for event in events[events.index(epochs[0]) :] if isinstance(event, HardwareSample)] or rows
    pace = statistics.median(epoch.seconds for epoch in steady)
    before = sum(result.timings.get(part, 0.0) for part in ("setup", "build"))
    fit = result.timings.get("fit", sum(epoch.seconds for epoch in epochs))
    return Measurement(
        variant.name,
        variant.changes,
        images_per_second=_median(steady, "images_per_second"),
        seconds_per_epoch=pace,
        startup_seconds=max(0.0, before + fit - len(epochs) * pace) if len(epochs) > 1 else None,
        seconds_to_target=_time_to(workload.target_accuracy, before, epochs),
        val_accuracy=max(epoch.metrics["val_accuracy"] for epoch in epochs),
        data_wait_percent=_median(steady, "data_wait_percent"),
        choices=choices,
        peak_memory_mb=max(_column(rows, "process_rss_mb"), default=None),
        # of all processes, where NVML lists none of the training's
        gpu_memory_mb=max(_column(rows, "_process_memory_mb") or _column(rows, "_memory_used_mb"), default=None),
        cpu_percent=_mean(_column(late, "process_cpu_percent")),
        gpu_percent=_mean(_column(late, "_utilization_percent", but="_memory_utilization_percent")),
        gpu_power_w=gpu_watts(late),
        cpu_power_w=cpu_watts(late),
    )


def _describe(result: TrialResult) -> str:
    if result.failure is None:
        return "it ended before its first epoch did"
    message = result.failure.message.partition("; see ")[0]  # the trial's folder, with its log, is gone
    return f"{result.failure.kind}: {message}"


def _median(epochs: Sequence[EpochRecord], metric: str) -> float | None:
    values = [epoch.metrics[metric] for epoch in epochs if math.isfinite(epoch.metrics.get(metric, math.nan))]
    return statistics.median(values) if values else None


def _time_to(accuracy: float, before: float, epochs: Sequence[EpochRecord]) -> float | None:
    ends = itertools.accumulate((epoch.seconds for epoch in epochs), initial=before)
    reached = (end for epoch, end in zip(epochs, [*ends][1:], strict=True) if epoch.metrics["val_accuracy"] >= accuracy)
    return next(reached, None)


def _column(rows: Iterable[Row], ending: str, but: str = "\n") -> list[float]:
    """Return the numbers of all columns with this ending, for instance of every GPU."""
    cells = [(name, value) for row in rows for name, value in row.items() if isinstance(value, (int, float))]
    return [float(value) for name, value in cells if name.endswith(ending) and not name.endswith(but)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
