"""Refuses settings that this machine or data set cannot satisfy, before anything starts."""

from collections.abc import Sequence

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Slot
from mloptimizer.hardware.analysis.energy import can_measure_energy
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.training.memory.batch_plan import plan_batch

_TF32_CAPABILITY = (8, 0)  # Ampere


def check_machine(settings: Settings, gpus: Sequence[Gpu]) -> None:
    """Refuse settings that this machine's GPUs cannot satisfy, as far as NVML tells.

    Raises:
        UsageError: with what would work.
    """
    limit_mb, smallest = settings.gpu_memory_limit_mb, min(gpus, key=lambda gpu: gpu.memory_mb, default=None)
    if limit_mb != "auto" and not gpus:
        raise UsageError(f"gpu_memory_limit_mb = {limit_mb}: this machine has no GPU. Possible: auto.")
    if settings.max_kwh and not can_measure_energy([gpu.uuid for gpu in gpus]):
        raise UsageError(
            f"max_kwh = {settings.max_kwh:g}: this machine reports neither the power of a GPU nor the energy of its "
            "processors (RAPL, which only root may read by default). Possible: max_hours."
        )
    if limit_mb != "auto" and smallest and 0 < smallest.memory_mb < limit_mb:
        name, most = smallest.name or "a GPU", smallest.memory_mb
        raise UsageError(f"gpu_memory_limit_mb = {limit_mb}: {name} has {most} MB. Possible: auto, or at most {most}.")
    _check_sharing(settings, gpus)
    unable = [gpu for gpu in gpus if gpu.compute_capability and tuple(gpu.compute_capability) < _TF32_CAPABILITY]
    if settings.precision == "tf32" and (unable or not gpus):
        versions = [".".join(map(str, gpu.compute_capability or ())) for gpu in unable]
        found = ", ".join(f"{gpu.name or 'a GPU'} with {has}" for gpu, has in zip(unable, versions, strict=True))
        raise UsageError(
            f"precision = tf32: needs GPUs of compute capability 8.0 or more; this machine has {found or 'no GPU'}. "
            f"Possible: {'auto, float32 or mixed_float16' if gpus else 'auto or float32'}."
        )


def _check_sharing(settings: Settings, gpus: Sequence[Gpu]) -> None:
    count, limit_mb = settings.trials_per_gpu, settings.gpu_memory_limit_mb
    if count in ("auto", 1):
        return
    if not gpus:
        raise UsageError(f"trials_per_gpu = {count}: this machine has no GPU. Possible: 1 or auto; see also workers.")
    smallest_mb = min(gpu.memory_mb for gpu in gpus)
    if limit_mb != "auto" and 0 < smallest_mb < int(count) * limit_mb:
        raise UsageError(
            f"gpu_memory_limit_mb = {limit_mb}: {count} trials on a GPU take more than the {smallest_mb} MB of the "
            f"smallest. Possible: auto, or at most {smallest_mb // int(count)}."
        )


def check_images(settings: Settings, slot: Slot, images: int) -> None:
    """Refuse more replicas than training images, and steps that the stated micro-batches do not divide.

    Args:
        slot: with as many GPUs as a trial of the search may get.
        images: in the training split.

    Raises:
        UsageError: with what would work.
    """
    most = len(slot.gpu_ids) or settings.cpu_replicas
    fewest = 1 if slot.gpu_ids and settings.gpus_per_trial == "auto" else most
    for replicas in (most, fewest):
        plan_batch(settings, images, replicas)
