"""Measures one fixed small model on fixed images, in the same way on every machine.

A residual network learns generated images of 32 × 32 × 3, on the CPU, or on one GPU and then on all, in float32 and in
the automatic precision of this machine; each twice, in turn, so that the noise is known. Nothing is downloaded, and the
settings of the workspace do not count.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mloptimizer
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import RunError
from mloptimizer.core.files import write_json
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.core.words import counted, utc_now
from mloptimizer.hardware.read.machine_facts import read_machine_facts
from mloptimizer.store.machine_file import BenchRun, MachineBenchmark
from mloptimizer.tuning.measured_model import MEASURED_MODEL, choose_model
from mloptimizer.tuning.measurement import SEED, Machine, Measurement, Variant, Workload, measure
from mloptimizer.tuning.tune import why_not

SHAPE, CLASSES = (32, 32, 3), 10
FRACTION = 1 / 9  # of the images, for validation
BATCH = 128  # images per step and GPU
_FIXED = {"profile": "basic", "batch_size": BATCH, "batch_size_multiplier": 1, "prefetch_batches": 4}

_SAME = ("images_per_second", "seconds_per_epoch", "startup_seconds", "gpu_power_w", "cpu_power_w", "data_wait_percent")
# Fields of a measurement of which the mean counts, with those of the benchmark.
_MEANS: Mapping[str, Any] = {**{name: name for name in _SAME}, "gpu_percent": "gpu_utilization_percent"}


@dataclass(frozen=True)
class Extent:
    """How much is trained: more makes the measurements steadier, not different."""

    images: int  # including those for validation
    epochs: int
    repetitions: int = 2


ON_CPU, ON_GPUS = Extent(1152, 3), Extent(36_864, 6)


def list_cases(machine: Machine) -> list[str]:
    """Return the names of the cases that are measured on this machine."""
    return [case.name for case in _cases(machine)]


def _cases(machine: Machine) -> Iterator[Variant]:
    counts = sorted({1, len(machine.gpus)}) if machine.gpus else [0]
    halves = machine.gpus and not why_not("mixed_float16", machine.gpus)  # as training.precision chooses
    for precision in ("float32", "auto") if halves else ("float32",):
        for count in counts:
            words = counted(count, "GPU") if count else "CPU"
            devices = {"gpus_per_trial": count} if count else {}
            settings = make_settings({**_FIXED, **devices, "precision": precision}, "bench --machine")
            yield Variant(f"{words}, {'automatic precision' if precision == 'auto' else precision}", settings)


def run_machine_bench(machine: Machine, tell: Callable[[str], None], extent: Extent | None = None) -> MachineBenchmark:
    """Measure every case in turn; takes about a minute on two cores. Raises RunError if nothing could be measured.

    Args:
        tell: takes a line about each measurement.
        extent: how much is trained; None: as much as this kind of machine needs.
    """
    extent, cases = extent or (ON_GPUS if machine.gpus else ON_CPU), list(_cases(machine))
    found: dict[str, list[Measurement]] = {case.name: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="mloptimizer-") as folder:
        dataset = generate_images(Path(folder), extent.images)
        space, params = choose_model(None, dataset, Path(folder))
        workload = Workload(space, params, dataset, extent.epochs)
        for repetition in range(1, extent.repetitions + 1):
            for case in cases:
                row = measure(workload, case, machine)
                found[case.name].append(row)
                outcome = row.failure or f"{row.images_per_second or 0.0:.0f} images/s"
                tell(f"{case.name}, {repetition} of {extent.repetitions}: {outcome}")
    runs = tuple(_join(case, found[case.name]) for case in cases)
    if all(run.failure for run in runs):
        raise RunError(f"bench --machine: the model could not be trained ({runs[0].failure}).")
    facts = {
        "model": space.name, "params": dict(MEASURED_MODEL), "input_shape": list(SHAPE), "classes": CLASSES,
        "batch_size": BATCH, "seed": SEED, "images": dataset.train_size, "validation_images": dataset.validation_size,
        "epochs": extent.epochs, "repetitions": extent.repetitions,
    }  # fmt: skip
    return MachineBenchmark(mloptimizer.__version__, utc_now("seconds"), read_machine_facts(), facts, runs)


def _join(case: Variant, rows: Sequence[Measurement]) -> BenchRun:
    """Return the mean of the repetitions, or why one of them failed."""
    stated = case.settings.model_dump(mode="json", include={"profile", *Settings.names("training", "speed")})
    gpus = 0 if case.settings.gpus_per_trial == "auto" else case.settings.gpus_per_trial
    about = (case.name, gpus, stated, dict(rows[0].choices))
    if failure := next((row.failure for row in rows if row.failure), ""):
        return BenchRun(*about, failure=failure)

    def values(name: str) -> list[float]:
        return [value for row in rows if (value := getattr(row, name)) is not None]

    mean: dict[str, Any] = {name: statistics.fmean(values(name)) if values(name) else None for name in _MEANS}
    speed, speeds = mean["images_per_second"], values("images_per_second")
    watts = [value for name in ("gpu_power_w", "cpu_power_w") if (value := mean[name]) is not None]
    return BenchRun(
        *about,
        **{_MEANS[name]: value for name, value in mean.items()},
        power_w=sum(watts) if watts else None,
        wh_per_1000_images=sum(watts) / speed / 3.6 if watts and speed else None,
        peak_memory_mb=max(values("peak_memory_mb"), default=None),
        gpu_memory_mb=max(values("gpu_memory_mb"), default=None),
        noise_percent=100 * (max(speeds) - min(speeds)) / statistics.fmean(speeds) if len(speeds) > 1 else None,
    )


def generate_images(folder: Path, count: int) -> DatasetInfo:
    """Write images of noise, the same on every machine, in the format of the cache of data sets."""
    import numpy as np

    draw = np.random.Generator(np.random.PCG64(SEED))
    images = draw.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32) % CLASSES
    np.save(folder / "train_images.npy", images)
    np.save(folder / "train_labels.npy", labels)
    fingerprint = f"generated-{SEED}-{count}"
    write_json(folder / "info.json", {"fingerprint": fingerprint})
    validation = round(count * FRACTION)
    return DatasetInfo(
        name="generated",
        task="classification",
        input_shape=SHAPE,
        classes=CLASSES,
        class_names=tuple(map(str, range(CLASSES))),
        train_size=count - validation,
        validation_size=validation,
        test_size=0,
        mean=(127.5,) * SHAPE[2],  # of uniform integers from 0 to 255
        std=(73.9,) * SHAPE[2],
        fingerprint=fingerprint,
        directory=str(folder),
        split_seed=SEED,
        validation_fraction=FRACTION,
        train_limit=0,
    )
