"""Divides this machine into slots: which GPUs and which cores a trial gets."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Decision
from mloptimizer.core.nouns import Slot
from mloptimizer.hardware.read.nvml import Gpu

MEMORY_PER_WORKER_MB = 1500  # a TensorFlow process with a small model and its data
MOST_TRIALS_PER_GPU = 4  # with trials_per_gpu = auto


@dataclass(frozen=True)
class GpusPerTrial:
    """How many GPUs each trial gets, and why."""

    count: int
    reason: str


def plan_slots(
    gpus: Sequence[Gpu],
    cpus: Sequence[int],
    memory_mb: float,
    trials: int,
    settings: Settings,
    *,
    chosen: GpusPerTrial | None = None,
    no_gpu: str = "",
) -> tuple[list[Slot], Decision]:
    """Return the slots for this many trials, and the choice with its reason.

    Args:
        gpus: those that may be used; without any, the cores are divided among `workers` slots.
        cpus: the logical cores that may be used.
        memory_mb: the free memory, MB; each slot gets an equal share.
        trials: how many are still to be trained.
        chosen: GPUs per trial where the setting is auto; None: as `choose_by_count` says.
        no_gpu: why no GPU can be used although the machine has one.

    Raises:
        UsageError: the settings ask for more GPUs per trial than the machine has, or than a process can use.
    """
    stated = settings.gpus_per_trial
    if stated != "auto" and stated > len(gpus):
        possible = f"1 to {len(gpus)}, or auto" if gpus else "auto; `mloptimizer doctor` lists the GPUs it finds"
        raise UsageError(f"gpus_per_trial = {stated}: this machine has {len(gpus)} GPUs. Possible: {possible}.")
    if stated not in ("auto", 1) and has_instances(gpus):
        why = "this machine's GPUs are MIG instances, and a process can use only one at a time"
        raise UsageError(f"gpus_per_trial = {stated}: {why}. Possible: 1 or auto.")
    if gpus:
        slots, decision = _gpu_slots(gpus, cpus, settings, chosen or choose_by_count(trials, gpus, settings))
    else:
        count, reason = _count_workers(len(cpus), memory_mb, trials, settings)
        if no_gpu or settings.workers == "auto":
            reason = f"{no_gpu or 'no GPU'}; {reason}"
        shares = _share(cpus, count)
        slots = [Slot(f"cpu{i}", cpu_ids=share, threads=_threads(share, cpus)) for i, share in enumerate(shares)]
        decision = Decision(None, "slots", f"{count} on {len(cpus)} cores", reason)
    return [replace(slot, memory_mb=int(memory_mb / len(slots))) for slot in slots], decision


def has_instances(gpus: Sequence[Gpu]) -> bool:
    """Return whether one of them is a MIG instance, a part of a GPU."""
    return any(gpu.mig for gpu in gpus)


def choose_by_count(trials: int, gpus: Sequence[Gpu], settings: Settings) -> GpusPerTrial:
    """Return how many GPUs each trial gets where nothing was measured."""
    if settings.gpus_per_trial != "auto":
        return GpusPerTrial(settings.gpus_per_trial, "setting gpus_per_trial")
    if settings.trials_per_gpu not in ("auto", 1):
        return GpusPerTrial(1, "setting trials_per_gpu")
    if has_instances(gpus):
        return GpusPerTrial(1, "a process can use only one MIG instance at a time")
    if trials >= len(gpus):
        return GpusPerTrial(1, f"{trials} trials keep {len(gpus)} GPUs busy with one GPU each")
    return GpusPerTrial(len(gpus), f"{trials} trials are fewer than {len(gpus)} GPUs: each gets all of them")


def cores_per_trial(cores: float) -> int:
    """Return how many cores a trial without a GPU gets on a machine with `cores`.

    On small machines one core each trains the most models per hour; on larger ones, two.
    """
    return 1 if cores <= 4 else 2


def _count_workers(cores: int, memory_mb: float, trials: int, settings: Settings) -> tuple[int, str]:
    if settings.workers != "auto":
        return settings.workers, "setting workers"
    by_cores = cores // cores_per_trial(cores)
    by_memory = max(1, math.floor(memory_mb / MEMORY_PER_WORKER_MB))
    count = max(1, min(by_cores, by_memory, trials))
    return count, f"{cores} cores allow {by_cores}, {memory_mb:.0f} MB free allow {by_memory}, {trials} trials"


def _gpu_slots(
    gpus: Sequence[Gpu], cpus: Sequence[int], settings: Settings, chosen: GpusPerTrial
) -> tuple[list[Slot], Decision]:
    size, reason = chosen.count, chosen.reason
    count = len(gpus) // size
    if settings.workers != "auto" and settings.workers < count:
        count, reason = settings.workers, f"{reason}; setting workers"
    slots = []
    for index, share in enumerate(_share(cpus, count)):
        mine = gpus[index * size : (index + 1) * size]
        name, uuids = "gpu" + "+".join(gpu.label for gpu in mine), tuple(gpu.uuid for gpu in mine)
        memory_mb = int(min(gpu.memory_mb for gpu in mine))
        slots.append(Slot(name, gpu_ids=uuids, cpu_ids=share, threads=_threads(share, cpus), gpu_memory_mb=memory_mb))
    if size > 1 or settings.trials_per_gpu == 1:
        return slots, Decision(None, "slots", f"{count} of {size} GPUs", reason)
    shared = _shared(slots, settings)
    choice = f"{count} GPUs, each for up to {shared[0].gpu_trials} trials"
    return shared, Decision(None, "slots", choice, f"{reason}; trials_per_gpu = {settings.trials_per_gpu}")


def _shared(slots: Sequence[Slot], settings: Settings) -> list[Slot]:
    """Return the slots of trials that share GPUs: the first of every GPU, then the second of every GPU, and so on.

    They also share the cores of their GPU, so that a trial that is alone there gets all of them. Each gets an equal
    part of the GPU's memory. With auto each may take all of it, and one that starts second gets the rest.
    """
    most = MOST_TRIALS_PER_GPU if settings.trials_per_gpu == "auto" else settings.trials_per_gpu
    parts = 1 if settings.trials_per_gpu == "auto" else most
    shared = [
        replace(slot, name=f"{slot.name}{letter}", gpu_memory_mb=slot.gpu_memory_mb // parts, gpu_trials=most)
        for letter in ["", *(chr(ord("a") + turn) for turn in range(1, most))]
        for slot in slots
    ]
    return shared if settings.workers == "auto" else shared[: settings.workers]


def _threads(share: Sequence[int], cpus: Sequence[int]) -> int:
    """Return twice the cores of the share: at the end of a phase the cores of idle slots are lent to the others."""
    return min(len(cpus), 2 * len(share))


def _share(cpus: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Return `count` disjoint shares of the cores, as even as possible; with fewer cores than shares, one core each."""
    if count >= len(cpus):
        return [(cpus[index % len(cpus)],) for index in range(count)]
    bounds = [round(index * len(cpus) / count) for index in range(count + 1)]
    return [tuple(cpus[start:end]) for start, end in itertools.pairwise(bounds)]
