"""Decides how many GPUs each trial of a phase gets: where more than one could pay, by measuring it, once.

Guarantees: what cannot pay even with perfect scaling is not measured. What was measured is kept with the study, so that
a search that goes on knows it. A measurement that fails, or that the person breaks off, changes nothing.
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

_LEAST_GAIN = 1.1  # times the trials per hour of one GPU each; less is not worth a larger batch, nor measuring

_MeasureOn = Callable[[int], Measurement]
"""Returns what a training on so many GPUs gave."""


@dataclass(frozen=True)
class Pace:
    """How fast a model trains on so many GPUs."""

    gpus: int
    startup_seconds: float
    images_per_second: float

    def seconds(self, images: float) -> float:
        """Return what a training on so many images takes."""
        return self.startup_seconds + images / self.images_per_second


@dataclass(frozen=True)
class Load:
    """Trials that are to be trained on GPUs: how the choice of GPUs per trial is counted."""

    trials: int
    gpus: int
    workers: int  # trials at a time, at most

    def rounds(self, size: int) -> int:
        """Return how often the slots of so many GPUs are filled; the last round may be ragged."""
        return math.ceil(self.trials / max(min(self.gpus // size, self.workers), 1))

    def most_gain(self, size: int) -> float:
        """Return how many times more trials per hour so many GPUs each bring, with perfect scaling."""
        return size * self.rounds(1) / self.rounds(size)

    def sizes(self) -> list[int]:
        """Return the GPUs per trial that may pay: all of them, and the halves."""
        sizes = [self.gpus // 2**halving for halving in range(self.gpus.bit_length())]
        return [size for size in sizes if size > 1 and self.most_gain(size) >= _LEAST_GAIN]

    def per_hour(self, pace: Pace, images: float) -> float:
        """Return the trials per hour, where each trains on so many images."""
        return 3600 * self.trials / (self.rounds(pace.gpus) * pace.seconds(images))


@dataclass(frozen=True, kw_only=True)
class Question:
    """The trials of a phase that are to get GPUs, and how a measurement for them is done."""

    phase: Phase
    trials: int
    dataset: DatasetInfo
    settings: Settings
    cache: Path  # the study's; what was measured is kept there
    find_workload: Callable[[], Workload]  # what to measure
    tell: Callable[[str], None]  # takes a line for the person
    waiting: Interruptible  # around each wait of a measurement; raises BrokenOffError where it must not go on


class BrokenOffError(Exception):
    """The search was told something that a measurement must not hold up."""


def choose_gpus_per_trial(question: Question, machine: Machine) -> GpusPerTrial | None:
    """Return how many GPUs each of the phase's trials gets, and why; None without a GPU.

    Raises:
        KeyboardInterrupt: inside `question.waiting`, while it was measured.
    """
    trials, settings, phase = question.trials, question.settings, question.phase
    by_count = choose_by_count(trials, machine.gpus, settings)
    stated = settings.gpus_per_trial != "auto" or settings.trials_per_gpu not in ("auto", 1)
    if len(machine.gpus) < 2 or stated or has_instances(machine.gpus):
        return by_count if machine.gpus else None
    if phase is Phase.TEST_EVALUATION:
        return GpusPerTrial(1, "nothing is trained")
    workers = len(machine.gpus) if settings.workers == "auto" else settings.workers
    load = Load(trials, len(machine.gpus), workers)
    if not load.sizes():
        most = max(load.most_gain(size) for size in (load.gpus, max(load.gpus // 2, 1)))
        return GpusPerTrial(1, f"{trials} trials on {load.gpus} GPUs: with more each, trials per hour would grow "
                               f"{max(most, 1.0):.2f} times at most")  # fmt: skip
    epochs = settings.exploration_epochs if phase is Phase.EXPLORATION else settings.hall_of_fame_epochs
    known = _KeptPaces(question, machine)
    if {1, *load.sizes()} - set(known.paces):
        *fewer, most_gpus = sorted([1, *load.sizes()])
        question.tell(
            f"Measuring short trainings on {', '.join(map(str, fewer))} and {most_gpus} GPUs, once, to see how many "
            "each trial should get; --set gpus_per_trial=1 skips it."
        )

    def measure_on(size: int) -> Measurement:
        variant = Variant(
            counted(size, "GPU"), settings.model_copy(update={"gpus_per_trial": size, "trials_per_gpu": 1})
        )
        return measure(question.find_workload(), variant, machine, question.waiting)

    try:
        return _choose(load, epochs * question.dataset.train_size, known, measure_on, by_count)
    except BrokenOffError as reason:
        return GpusPerTrial(by_count.count, f"{by_count.reason}; not measured: {reason}")
    except (MloptimizerError, OSError) as error:  # the measured training has a folder of its own, which may be full
        return GpusPerTrial(by_count.count, f"{by_count.reason}; the measurement failed: {error}")


def _choose(
    load: Load, images: float, known: "_KeptPaces", measure_on: _MeasureOn, by_count: GpusPerTrial
) -> GpusPerTrial:
    """Return the GPUs per trial with the most trials per hour, measuring what is not known.

    One GPU each stays unless more bring `_LEAST_GAIN`. A size whose training fails is left out; where that of one GPU
    fails, there is nothing to compare with, and `by_count` stays.
    """
    faults: list[str] = []
    for size in (1, *load.sizes()):
        if size in known.paces:
            continue
        found = measure_on(size)
        if found.failure or not found.images_per_second:
            faults.append(f"with {counted(size, 'GPU')} it failed: {found.failure or 'it was too short'}")
            if size == 1:
                return GpusPerTrial(by_count.count, f"{by_count.reason}; measured {faults[0]}")
            continue
        known.keep(Pace(size, found.startup_seconds or 0.0, found.images_per_second))
    paces = [known.paces[size] for size in (1, *load.sizes()) if size in known.paces]
    rates = {pace.gpus: load.per_hour(pace, images) for pace in paces}
    best = max(rates, key=lambda size: rates[size])
    count = best if rates[best] >= _LEAST_GAIN * rates[1] else 1
    figures = [
        f"{rates[pace.gpus]:.3g} trials per hour with {counted(pace.gpus, 'GPU')} each ("
        f"{pace.images_per_second:,.0f} images/s, {pace.seconds(images):,.0f} s per trial, "
        f"{counted(load.rounds(pace.gpus), 'round')})"
        for pace in paces
    ]
    return GpusPerTrial(count, "; ".join([f"{load.trials} trials, measured", *figures, *faults]))


class _KeptPaces:
    """The paces that were measured for a phase of a study, on GPUs and with settings like these."""

    def __init__(self, question: Question, machine: Machine) -> None:
        self._path = question.cache / f"gpus_per_trial_{question.phase}.json"
        self._identity = identify_tuning(machine, question.dataset, question.settings)
        self.paces = {pace.gpus: pace for pace in self._read()}

    def _read(self) -> list[Pace]:
        try:
            kept = read_json(self._path) if self._path.is_file() else {}
            fits = kept.get("identity") == self._identity
            return TypeAdapter(list[Pace]).validate_python(kept["paces"]) if fits else []
        except (MloptimizerError, ValidationError, KeyError):  # then it is measured again
            return []

    def keep(self, pace: Pace) -> None:
        """Add a pace to those in the study's cache."""
        self.paces[pace.gpus] = pace
        paces = [to_json(kept) for kept in self.paces.values()]
        write_json(self._path, {"identity": self._identity, "paces": paces})
