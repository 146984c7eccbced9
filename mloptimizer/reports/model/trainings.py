"""Reads from the records of studies and from machine benchmarks how fast, and with how much energy, models trained.

A training counts once it was completed or pruned and has an epoch. What its records do not say is None.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Outcome
from mloptimizer.core.words import read_time
from mloptimizer.reports.formatting import is_number
from mloptimizer.reports.model.standings import read_study_record
from mloptimizer.store.machine_file import BenchRun, MachineBenchmark, read_machine_file
from mloptimizer.store.metrics_store import TrialRecord
from mloptimizer.store.workspace import Workspace

# Fields of result.json's "hardware", see hardware.summary
_ENERGY_WH = ("energy_wh", "gpu_wh", "cpu_wh")  # the first that is known
_TOPICS = {  # name of the recorded choice, which says more than the setting, where that is not the setting's name
    "xla": "XLA",
    "batch_size": "global batch",
    "steps_per_execution": "steps per execution",
    "data_on_device": "images on the device",
    "accumulation_steps": "accumulation",
}
_STARTUP = ("setup", "build", "first_step")  # of result.json's "timings"
_WORKLOAD = ("model", "params", "input_shape", "classes", "batch_size")  # of a benchmark, without its length
_DATA, _PACKING = "data set", "trials_per_gpu"  # the latter as measured
_SETTINGS = Settings.names("training", "speed")
COMPARED = (_DATA, *_SETTINGS)
_ALIKE = (_DATA, "precision", "xla", _PACKING)  # equal in trainings whose scaling is compared


@dataclass(frozen=True)
class Training:
    """One training, or one run of a machine benchmark."""

    source: str  # the study or file, as the person named it
    machine: Mapping[str, Any]  # see hardware.read.machine_facts; empty: unknown
    gpus: int | None
    cores: int | None
    model: str  # equal for the same space and parameters on the same data
    settings: Mapping[str, str]  # by name, see COMPARED
    images_per_second: float | None
    seconds_per_epoch: float | None
    power_w: float | None = None
    energy_wh: float | None = None
    seconds: float | None = None
    gpu_percent: float | None = None
    shared_by: float = 1.0  # trials on its GPUs, including itself
    startup_s: float | None = None  # until its epochs reach their steady pace
    ram_mb: float | None = None  # peak resident memory of its processes
    gpu_memory_mb: float | None = None  # peak memory of one GPU
    noise_percent: float | None = None  # difference between repetitions

    @property
    def host(self) -> str:
        return str(self.machine.get("host") or "")

    @property
    def scaled_model(self) -> tuple[str, ...]:
        """What must be equal for comparing the speed on n GPUs to that on one: also the name of the first GPU."""
        gpus = self.machine.get("gpus")
        gpu = str(_mapping(gpus[0]).get("name") or "") if isinstance(gpus, list) and gpus else ""
        return (self.model, gpu, *(self.settings.get(name, "") for name in _ALIKE))


def read_trainings(words: Sequence[str], workspace: Workspace) -> tuple[list[Training], list[str]]:
    """Return the trainings of everything named, in order, and a line for each thing that could not be read.

    Args:
        words: each a study of the workspace, STUDY@FOLDER of another one, or a file of a machine benchmark.

    Raises:
        UsageError: there is no such study, workspace or file, or it cannot be read.
    """
    found: list[Training] = []
    notes: list[str] = []
    for word in dict.fromkeys(words):
        if Path(word).suffix == ".json" or Path(word).is_file():
            benchmark = read_machine_file(Path(word))
            trainings = [_of_run(word, benchmark, run) for run in benchmark.runs if not run.failure]
            faults = [f"{run.name}: {run.failure}" for run in benchmark.runs if run.failure]
        else:
            trainings, faults = _of_study(word, workspace)
        found += trainings
        notes += [f"{word}: {fault}" for fault in faults]
        if not trainings:
            notes.append(f"{word}: no training that could be compared has ended yet.")
    return found, notes


def _of_run(source: str, benchmark: MachineBenchmark, run: BenchRun) -> Training:
    workload = benchmark.workload
    return Training(
        source,
        benchmark.machine,
        run.gpus,
        _whole(benchmark.machine.get("cores")),
        model=json.dumps({name: workload.get(name) for name in _WORKLOAD}, sort_keys=True),
        settings={_DATA: "generated images", **_settings(run.settings, run.choices)},
        images_per_second=run.images_per_second,
        seconds_per_epoch=run.seconds_per_epoch,
        power_w=run.power_w,
        gpu_percent=run.gpu_utilization_percent,
        startup_s=run.startup_seconds,
        ram_mb=run.peak_memory_mb,
        gpu_memory_mb=run.gpu_memory_mb,
        noise_percent=run.noise_percent,
    )


def _of_study(word: str, workspace: Workspace) -> tuple[list[Training], list[str]]:
    name, _, folder = word.partition("@")
    place = Workspace(Path(folder)) if folder else workspace
    if folder and not place.metrics.is_dir():
        raise UsageError(f"{word}: {folder} is not a workspace. Possible: a folder that contains metrics_data/.")
    study = read_study_record(place, name)
    trainings = [
        _of_record(word, study.facts, record)
        for standing in study.standings
        for record in standing.trainings
        if record.result.get("outcome") in (Outcome.COMPLETED, Outcome.PRUNED) and record.epochs
    ]
    return trainings, [standing.damage for standing in study.standings if standing.damage]


def _of_record(source: str, facts: Mapping[str, Any], record: TrialRecord) -> Training:
    plan, hardware = record.plan, record.result.get("hardware", {})
    slot, dataset = _mapping(plan.get("slot")), plan.get("dataset", {})
    machine, epochs = _machine(facts, plan), _steady_epochs(record)
    data = f"{dataset.get('name')}, {dataset.get('train_size')} images"
    energy = next((float(hardware[key]) for key in _ENERGY_WH if is_number(hardware.get(key))), None)
    duration = _number(hardware.get("duration_s"))
    shared_by = max(1.0, _number(hardware.get("trials_on_gpu")) or 1.0)
    settings = _settings(_mapping(plan.get("settings")), record.result.get("choices", {}))
    cpu_ids, timings = slot.get("cpu_ids"), record.result.get("timings", {})
    startup = [float(timings[part]) for part in _STARTUP if is_number(timings.get(part))]
    return Training(
        source,
        machine,
        gpus=len(slot["gpu_ids"]) if isinstance(slot.get("gpu_ids"), list) else None,
        cores=(len(cpu_ids) or _whole(machine.get("cores"))) if isinstance(cpu_ids, list) else None,
        model=json.dumps([plan.get("space"), plan.get("params"), data], sort_keys=True),
        settings={_DATA: data, **settings, _PACKING: f"{shared_by:.0f}"},
        images_per_second=_median(epochs, "images_per_second"),
        seconds_per_epoch=_median(epochs, "seconds"),
        power_w=energy * 3600 / duration if energy is not None and duration else _number(hardware.get("gpu_power_w")),
        energy_wh=energy,
        seconds=duration or _number(record.result.get("seconds")),
        gpu_percent=_number(hardware.get("gpu_utilization_percent")),
        shared_by=shared_by,
        startup_s=sum(startup) if len(startup) == len(_STARTUP) else None,
        ram_mb=_number(hardware.get("ram_peak_mb")),
        gpu_memory_mb=_number(hardware.get("gpu_memory_peak_mb")),
    )


def _machine(facts: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the machine of the training's last attempt: the newest of that name when the attempt began."""
    host, started = _mapping(plan.get("slot")).get("host"), read_time(plan.get("started_utc"))
    earlier = facts.get("earlier_machines")
    found: Mapping[str, Any] = {}
    for machine in map(_mapping, [*(earlier if isinstance(earlier, list) else ()), facts.get("machine")]):
        since = read_time(machine.get("since_utc"))
        if host and machine.get("host") == host and (not found or not since or not started or since <= started):
            found = machine
    return found


def _steady_epochs(record: TrialRecord) -> list[Mapping[str, Any]]:
    """Return the epochs of the last attempt but its first, which compiles and warms up."""
    started = read_time(record.plan.get("started_utc"))
    times = [(read_time(epoch.get("ended_utc")), epoch) for epoch in record.epochs]
    last = [epoch for time, epoch in times if not time or not started or time >= started]
    return last[1:] or last or list(record.epochs)


def _settings(stated: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, str]:
    found = {name: choices.get(_TOPICS.get(name, name), stated.get(name)) for name in _SETTINGS}
    return {name: str(value) for name, value in found.items() if value is not None}


def _median(epochs: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [float(epoch[name]) for epoch in epochs if is_number(epoch.get(name)) and epoch[name] > 0]
    return statistics.median(values) if values else None


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
