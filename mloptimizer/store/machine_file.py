"""Writes the measurements of `bench --machine` as one JSON file, and reads such files of any machine.

A file appears whole and never replaces another. docs/watching.md describes its format; a newer format is refused.
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
    "power_w": "W, GPUs and CPU together, as far as known",
    "wh_per_1000_images": "Wh, power_w over images_per_second",
    "peak_memory_mb": "MB of 2**20 bytes, resident, of the training's processes",
    "gpu_memory_mb": "MB of 2**20 bytes, of the GPU that had most in use",
    "gpu_utilization_percent": "%, mean over its GPUs after the first epoch",
    "data_wait_percent": "%, share of an epoch in which the device waited for images",
    "noise_percent": "%, how far the images per second of the two repetitions are apart, of their mean",
}
"""Of the values of a run: each is the mean of its repetitions, except the memory, which is the highest."""

Measured = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


@dataclass(frozen=True)
class BenchRun:
    """The fixed model with one precision on this many GPUs; 0: on the CPU. See `UNITS`."""

    name: str
    gpus: Annotated[int, Field(ge=0)]
    settings: Mapping[str, bool | int | float | str]
    choices: Mapping[str, str]  # automatic choices by topic
    images_per_second: Measured = None
    seconds_per_epoch: Measured = None
    startup_seconds: Measured = None
    gpu_power_w: Measured = None
    cpu_power_w: Measured = None
    power_w: Measured = None
    wh_per_1000_images: Measured = None
    peak_memory_mb: Measured = None
    gpu_memory_mb: Measured = None
    gpu_utilization_percent: Measured = None
    data_wait_percent: Measured = None
    noise_percent: Measured = None
    failure: str = ""  # why there are no values


@dataclass(frozen=True)
class MachineBenchmark:
    """The results of the benchmark on a machine."""

    mloptimizer: str  # version
    measured_utc: str
    machine: Mapping[str, Any]  # see hardware.facts
    workload: Mapping[str, Any]  # model, parameters, images, epochs: equal ones can be compared
    runs: tuple[BenchRun, ...]


def check_free(path: Path) -> None:
    """Raise UsageError if the path exists already or cannot be written."""
    if path.exists():
        raise UsageError(f"-o {path}: exists already, and is never overwritten. Choose another file.")
    write_json(path, {})
    path.unlink()


def write_machine_file(path: Path, benchmark: MachineBenchmark) -> None:
    """Write the benchmark with its format, version and units.

    Raises:
        UsageError: the file exists already or cannot be written.
        RunError: the disk is full or failed.
    """
    check_free(path)
    write_json(path, {"format": FORMAT, "version": VERSION, "units": UNITS, **to_json(benchmark)})


def read_machine_file(path: Path) -> MachineBenchmark:
    """Return the benchmark in the file.

    Raises:
        UsageError: it is missing, damaged, not a benchmark, or of a newer format.
    """
    value = read_json(path)
    version = value.get("version")
    if value.get("format") != FORMAT or not isinstance(version, int):
        raise UsageError(f"{path}: not a machine benchmark. Possible: a file written by `mloptimizer bench --machine`.")
    if version > VERSION:
        newer = f"has format {version}, and this mloptimizer reads up to {VERSION}"
        raise UsageError(f"{path}: {newer}. Upgrade it: pip install --upgrade mloptimizer.")
    try:
        return TypeAdapter(MachineBenchmark).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{path}: is damaged ({first_fault(error)}). Measure again, or restore it.") from error
