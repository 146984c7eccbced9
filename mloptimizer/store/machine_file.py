"""Keeps what `bench --machine` measured as one JSON file, and reads such files of any machine back.

A file appears whole and takes the place of no other. Its format is in docs/watching.md; a file of a newer format is
refused, not guessed at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import read_json, write_json
from mloptimizer.core.nouns import first_fault, to_json

FORMAT, VERSION = "mloptimizer machine benchmark", 1
UNITS = {
    "images_per_second": "1/s, of training alone",
    "seconds_per_epoch": "s, with validation",
    "startup_seconds": "s: data, model, tracing and compiling",
    "gpu_power_w": "W, of all its GPUs together, mean after the first epoch",
    "cpu_power_w": "W, of the machine's CPU packages, mean after the first epoch",
    "power_w": "W, both together, as far as they are known",
    "wh_per_1000_images": "Wh, power_w over images_per_second",
    "peak_memory_mb": "MB of 2**20 bytes, resident, of the training's processes",
    "gpu_memory_mb": "MB of 2**20 bytes, of the GPU that had most in use",
    "gpu_utilization_percent": "%, mean over its GPUs after the first epoch",
    "data_wait_percent": "%, share of an epoch in which the device waited for images",
    "noise_percent": "%, how far the images per second of the two repetitions are apart, of their mean",
}
"""Of the figures of a run: each is the mean of its repetitions, but the memory, which is the highest."""

Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


@dataclass(frozen=True)
class BenchRun:
    """The fixed model under one precision on so many GPUs; 0: on the CPU. See `UNITS`."""

    name: str
    gpus: Annotated[int, Field(ge=0)]
    settings: Mapping[str, bool | int | float | str]
    choices: Mapping[str, str]  # what was chosen automatically, by topic
    images_per_second: Figure = None
    seconds_per_epoch: Figure = None
    startup_seconds: Figure = None
    gpu_power_w: Figure = None
    cpu_power_w: Figure = None
    power_w: Figure = None
    wh_per_1000_images: Figure = None
    peak_memory_mb: Figure = None
    gpu_memory_mb: Figure = None
    gpu_utilization_percent: Figure = None
    data_wait_percent: Figure = None
    noise_percent: Figure = None
    failure: str = ""  # why there are no figures


@dataclass(frozen=True)
class MachineBenchmark:
    """What the benchmark found on a machine."""

    mloptimizer: str  # version
    measured_utc: str
    machine: Mapping[str, Any]  # see hardware.facts
    workload: Mapping[str, Any]  # model, parameters, images, epochs: equal ones can be compared
    runs: tuple[BenchRun, ...]


_BENCHMARK = TypeAdapter(MachineBenchmark)


def check_free(path: Path) -> None:
    """Raise UsageError where something is at the path, or where it could not be written."""
    if path.exists():
        raise UsageError(f"-o {path}: is there already, and nothing is written over. Choose another file.")
    write_json(path, {})
    path.unlink()


def write_machine_file(path: Path, benchmark: MachineBenchmark) -> None:
    """Write the benchmark with its format, version and units.

    Raises:
        UsageError: the file is there already, or cannot be written.
        RunError: the disk is full or failed.
    """
    check_free(path)
    write_json(path, {"format": FORMAT, "version": VERSION, "units": UNITS, **to_json(benchmark)})


def read_machine_file(path: Path) -> MachineBenchmark:
    """Return the benchmark in the file.

    Raises:
        UsageError: it is missing, damaged, something else, or of a newer format.
    """
    value = read_json(path)
    version = value.get("version")
    if value.get("format") != FORMAT or not isinstance(version, int):
        raise UsageError(f"{path}: is no machine benchmark. Possible: a file that `mloptimizer bench --machine` wrote.")
    if version > VERSION:
        newer = f"has format {version}, and this mloptimizer reads up to {VERSION}"
        raise UsageError(f"{path}: {newer}. Upgrade it: pip install --upgrade mloptimizer.")
    known = {name: value[name] for name in MachineBenchmark.__dataclass_fields__ if name in value}
    try:
        return _BENCHMARK.validate_python(known)
    except ValidationError as error:
        raise UsageError(f"{path}: is damaged ({first_fault(error)}). Measure again, or restore it.") from error
