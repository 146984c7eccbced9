"""Decides how many GPUs each trial of a phase gets: where more than one could pay, it measures that once.

Guarantees: what cannot pay even with perfect scaling is not measured. Measurements are kept with the study, for when
it is resumed. A measurement that fails, or that the person interrupts, changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.files import read_json, write_json
from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.nouns import DatasetInfo, Phase, to_json
from mloptimizer.core.words import counted
from mloptimizer.engines.slots import GpusPerTrial, choose_by_count, has_instances
from mloptimizer.tuning.measurement import Machine, Measurement, Variant, Workload, measure
from mloptimizer.tuning.plans import identify_tuning

_LEAST_GAIN = 1.1  # times the trials per hour with one GPU each; less justifies neither a larger batch nor measuring


@dataclass(frozen=True)
class Pace:
    """How fast a model trains on this many GPUs."""

    gpus: int
    startup_seconds: float
    images_per_second: float

    def seconds(self, images: float) -> float:
        """Return how long a training on this many images takes."""
        return self.startup_seconds + images / self.images_per_second


@dataclass(frozen=True)
class Load:
    """The trials that share some GPUs, to compute what more GPUs per trial would bring."""

    trials: int
    gpus: int
    workers: int  # trials at a time, at most

    def rounds(self, size: int) -> int:
        """Return how often slots of `size` GPUs are filled; the last round may be incomplete."""
        return math.ceil(self.trials / max(min(self.gpus // size, self.workers), 1))

    def most_gain(self, size: int) -> float:
        """Return how many times more trials per hour `size` GPUs each would bring with perfect scaling."""
        return size * self.rounds(1) / self.rounds(size)

    def sizes(self) -> list[int]:
        """Return the GPUs per trial that may pay: all of them, half of them, and so on."""
        sizes = [self.gpus // 2**halving for halving in range(self.gpus.bit_length())]
        return [size for size in sizes if size > 1 and self.most_gain(size) >= _LEAST_GAIN]

    def per_hour(self, pace: Pace, images: float) -> float:
        """Return the trials per hour if each trains on this many images."""
        return 3600 * self.trials / (self.rounds(pace.gpus) * pace.seconds(images))


@dataclass(frozen=True, kw_only=True)
class Question:
    """The trials of a phase that are to get GPUs, and how to measure for them."""

    phase: Phase
    trials: int
    dataset: DatasetInfo
    settings: Settings
    cache: Path  # the study's, where measurements are kept
    find_workload: Callable[[], Workload]  # what to measure
    tell: Callable[[str], None]  # shows a line to the person
    waiting: Interruptible  # around each wait of a measurement; raises BrokenOffError to abort it


class BrokenOffError(Exception):
    """The search was asked to stop or pause, and a measurement must not delay that."""


def choose_gpus_per_trial(question: Question, machine: Machine) -> GpusPerTrial | None:
    """Return how many GPUs each of the phase's trials gets, and why; None without a GPU.

    Raises:
        KeyboardInterrupt: inside `question.waiting`, during a measurement.
    """
    trials, settings, phase, count = question.trials, question.settings, question.phase, len(machine.gpus)
    by_count = choose_by_count(trials, machine.gpus, settings)
    stated = settings.gpus_per_trial != "auto" or settings.trials_per_gpu not in ("auto", 1)
    if count < 2 or stated or has_instances(machine.gpus):
        return by_count if count else None
    if phase is Phase.TEST_EVALUATION:
        return GpusPerTrial(1, "nothing is trained")
    load = Load(trials, count, count if settings.workers == "auto" else settings.workers)
    if not load.sizes():
        most = max(1.0, *(load.most_gain(size) for size in (count, max(count // 2, 1))))
        reason = f"{trials} trials on {count} GPUs: with more each, trials per hour would grow {most:.2f} times at most"
        return GpusPerTrial(1, reason)
    epochs = settings.exploration_epochs if phase is Phase.EXPLORATION else settings.hall_of_fame_epochs
    known = _KeptPaces(question, machine)
    if {1, *load.sizes()} - set(known.paces):
        *fewer, most_gpus = sorted([1, *load.sizes()])
        question.tell(
            f"Measuring short trainings on {', '.join(map(str, fewer))} and {most_gpus} GPUs, once, to see how many "
            "each trial should get; --set gpus_per_trial=1 skips it."
        )

    def measure_on(size: int) -> Measurement:
        on_size = settings.model_copy(update={"gpus_per_trial": size, "trials_per_gpu": 1})
        return measure(question.find_workload(), Variant(counted(size, "GPU"), on_size), machine, question.waiting)

    try:
        return _choose(load, epochs * question.dataset.train_size, known, measure_on, by_count)
    except BrokenOffError as reason:
        return GpusPerTrial(by_count.count, f"{by_count.reason}; not measured: {reason}")
    except (MloptimizerError, OSError) as error:  # the measured training has a folder of its own, which may be full
        return GpusPerTrial(by_count.count, f"{by_count.reason}; the measurement failed: {error}")


def _choose(
    load: Load, images: float, known: "_KeptPaces", measure_on: Callable[[int], Measurement], by_count: GpusPerTrial
) -> GpusPerTrial:
    """Return the GPUs per trial with the most trials per hour, measuring what is not known.

    One GPU each stays unless more bring `_LEAST_GAIN`. A size whose training fails is left out; if that of one GPU
    fails, there is nothing to compare with, and `by_count` stays.
    """
    faults: list[str] = []
    sizes = (1, *load.sizes())
    for size in sizes:
        if size in known.paces:
            continue
        found = measure_on(size)
        if not found.failure and found.images_per_second:
            known.keep(Pace(size, found.startup_seconds or 0.0, found.images_per_second))
            continue
        faults.append(f"with {counted(size, 'GPU')} it failed: {found.failure or 'it was too short'}")
        if size == 1:
            return GpusPerTrial(by_count.count, f"{by_count.reason}; measured {faults[0]}")
    paces = [known.paces[size] for size in sizes if size in known.paces]
    rates = {pace.gpus: load.per_hour(pace, images) for pace in paces}
    best = max(rates, key=lambda size: rates[size])
    measured = [
        f"{rates[pace.gpus]:.3g} trials per hour with {counted(pace.gpus, 'GPU')} each ("
        f"{pace.images_per_second:,.0f} images/s, {pace.seconds(images):,.0f} s per trial, "
        f"{counted(load.rounds(pace.gpus), 'round')})"
        for pace in paces
    ]
    reason = "; ".join([f"{load.trials} trials, measured", *measured, *faults])
    return GpusPerTrial(best if rates[best] >= _LEAST_GAIN * rates[1] else 1, reason)


class _KeptPaces:
    """The paces measured for a phase of a study, on the same GPUs and with the same settings."""

    def __init__(self, question: Question, machine: Machine) -> None:
        self._path = question.cache / f"gpus_per_trial_{question.phase}.json"
        self._identity = identify_tuning(machine, question.dataset, question.settings)
        self.paces: dict[int, Pace] = {}
        try:
            kept = read_json(self._path) if self._path.is_file() else {}
            if kept.get("identity") == self._identity:
                paces = TypeAdapter(list[Pace]).validate_python(kept["paces"])
                self.paces = {pace.gpus: pace for pace in paces}
        except (MloptimizerError, ValidationError, KeyError):
            pass  # then it is measured again

    def keep(self, pace: Pace) -> None:
        """Add a pace to those in the study's cache."""
        self.paces[pace.gpus] = pace
        paces = [to_json(kept) for kept in self.paces.values()]
        write_json(self._path, {"identity": self._identity, "paces": paces})
