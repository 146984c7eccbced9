"""Measures one fixed small model on fixed images, on this machine and any other alike.

A residual network learns generated images of 32 × 32 × 3, on the CPU, or on one GPU and then on all, in float32 and in
the precision that is automatic here; each twice, in turn, so that the noise is known. Nothing is downloaded, and the
settings of the workspace do not count.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
FRACTION = 1 / 9  # of the images that validate
BATCH = 128  # images per step and GPU
_FIXED = {"profile": "basic", "batch_size": BATCH, "batch_size_multiplier": 1, "prefetch_batches": 4}


@dataclass(frozen=True)
class Extent:
    """How much is trained: it changes how steady the figures are, not what they are."""

    images: int  # those that validate included
    epochs: int
    repetitions: int = 2


ON_CPU, ON_GPUS = Extent(1152, 3), Extent(36_864, 6)

Tell = Callable[[str], None]
"""Is told in a line what was measured."""


@dataclass(frozen=True)
class _Case:
    name: str
    gpus: int
    settings: Settings


def list_cases(machine: Machine) -> list[str]:
    """Return the names of what is measured on this machine."""
    return [case.name for case in _cases(machine)]


def _cases(machine: Machine) -> Iterator[_Case]:
    counts = sorted({1, len(machine.gpus)}) if machine.gpus else [0]
    halves = machine.gpus and not why_not("mixed_float16", machine.gpus)  # as training.precision chooses
    for precision in ("float32", "auto") if halves else ("float32",):
        for count in counts:
            words = counted(count, "GPU") if count else "CPU"
            devices = {"gpus_per_trial": count} if count else {}
            settings = make_settings({**_FIXED, **devices, "precision": precision}, "bench --machine")
            yield _Case(f"{words}, {'automatic precision' if precision == 'auto' else precision}", count, settings)


def run_machine_bench(machine: Machine, tell: Tell, extent: Extent | None = None) -> MachineBenchmark:
    """Measure everything, in turn, and return it; takes about a minute on two cores.

    Args:
        extent: how much is trained; None: as much as this kind of machine needs.

    Raises:
        RunError: nothing could be measured.
    """
    extent, cases = extent or (ON_GPUS if machine.gpus else ON_CPU), list(_cases(machine))
    found: dict[str, list[Measurement]] = {case.name: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="mloptimizer-") as folder:
        dataset = generate_images(Path(folder), extent.images)
        space, params = choose_model(None, dataset, Path(folder))
        workload = Workload(space, params, dataset, extent.epochs)
        for repetition in range(1, extent.repetitions + 1):
            for case in cases:
                row = measure(workload, Variant(case.name, case.settings), machine)
                found[case.name].append(row)
                figure = row.failure or f"{row.images_per_second or 0.0:.0f} images/s"
                tell(f"{case.name}, {repetition} of {extent.repetitions}: {figure}")
    runs = tuple(_join(case, found[case.name]) for case in cases)
    if all(run.failure for run in runs):
        raise RunError(f"bench --machine: the model could not be trained ({runs[0].failure}).")
    facts = {
        "model": space.name, "params": dict(MEASURED_MODEL), "input_shape": list(SHAPE), "classes": CLASSES,
        "batch_size": BATCH, "seed": SEED, "images": dataset.train_size, "validation_images": dataset.validation_size,
        "epochs": extent.epochs, "repetitions": extent.repetitions,
    }  # fmt: skip
    return MachineBenchmark(mloptimizer.__version__, utc_now("seconds"), read_machine_facts(), facts, runs)


def _join(case: _Case, rows: Sequence[Measurement]) -> BenchRun:
    """Return the mean of the repetitions, or why there is none."""
    stated = case.settings.model_dump(mode="json", include={"profile", *Settings.names("training", "speed")})
    choices = dict(rows[0].choices)
    if failure := next((row.failure for row in rows if row.failure), ""):
        return BenchRun(case.name, case.gpus, stated, choices, failure=failure)
    speed, gpu, cpu = (_mean(rows, name) for name in ("images_per_second", "gpu_power_w", "cpu_power_w"))
    power = sum(figure or 0.0 for figure in (gpu, cpu)) if gpu is not None or cpu is not None else None
    speeds = [row.images_per_second for row in rows if row.images_per_second]
    return BenchRun(
        case.name,
        case.gpus,
        stated,
        choices,
        images_per_second=speed,
        seconds_per_epoch=_mean(rows, "seconds_per_epoch"),
        startup_seconds=_mean(rows, "startup_seconds"),
        gpu_power_w=gpu,
        cpu_power_w=cpu,
        power_w=power,
        wh_per_1000_images=power / speed / 3.6 if power is not None and speed else None,
        peak_memory_mb=_highest(rows, "peak_memory_mb"),
        gpu_memory_mb=_highest(rows, "gpu_memory_mb"),
        gpu_utilization_percent=_mean(rows, "gpu_percent"),
        data_wait_percent=_mean(rows, "data_wait_percent"),
        noise_percent=100 * (max(speeds) - min(speeds)) / statistics.fmean(speeds) if len(speeds) > 1 else None,
    )


def _mean(rows: Sequence[Measurement], name: str) -> float | None:
    figures = [value for row in rows if (value := getattr(row, name)) is not None]
    return statistics.fmean(figures) if figures else None


def _highest(rows: Sequence[Measurement], name: str) -> float | None:
    return max((value for row in rows if (value := getattr(row, name)) is not None), default=None)


def generate_images(folder: Path, count: int) -> DatasetInfo:
    """Write so many images of noise, the same on every machine, as an entry of the cache of data sets is written."""
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
        mean=(127.5,) * SHAPE[2],  # of whole numbers from 0 to 255, each as likely
        std=(73.9,) * SHAPE[2],
        fingerprint=fingerprint,
        directory=str(folder),
        split_seed=SEED,
        validation_fraction=FRACTION,
        train_limit=0,
    )
