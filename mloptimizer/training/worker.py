"""The life of a worker: it prepares its process for the slot, logs the hardware, and trains the model.

TensorFlow is imported only after the GPUs of other slots are hidden.
"""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import MloptimizerError, RunError
from mloptimizer.core.events import Emit, HardwareSample, ShouldStop
from mloptimizer.core.nouns import Slot, TrialPlan, TrialResult, dataset_from_json
from mloptimizer.hardware.read.machine import list_cpus
from mloptimizer.hardware.read.monitor import Monitor
from mloptimizer.hardware.read.reader import HardwareReader
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.environment import reset_keras, set_environment

PRELOAD = ("mloptimizer.training.preload", "mloptimizer.training.worker")  # imported once by the fork server
_EXIT_WITHOUT_GPU = 78  # EX_CONFIG of sysexits.h
_XLA_FLAGS, _XLA_CACHE = "TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory"


def run_plan(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Train the plan's model in this process and return the result; the `RunTrial` of any engine."""
    set_environment()
    os.environ.update(slot_environment(slot) | plan_environment(plan, os.environ.get(_XLA_FLAGS, "")))
    step_back(plan.settings.nice)
    from mloptimizer.training.devices import count_gpus
    from mloptimizer.training.trial import run_trial

    if multiprocessing.get_start_method(allow_none=True) == "forkserver" and count_gpus() < len(slot.gpu_ids):
        sys.exit(_EXIT_WITHOUT_GPU)  # CUDA did not survive the fork: after this exit the engine spawns instead
    reset_keras()

    clock = TrainingClock()
    reader = HardwareReader(slot.gpu_ids, os.getpid(), clock, cpu_ids=slot.cpu_ids or list_cpus())
    with Monitor(reader, plan.settings.monitor_seconds, lambda row: emit(HardwareSample(plan.number, row))):
        return run_trial(plan, slot, emit, should_stop, clock)


def slot_environment(slot: Slot) -> dict[str, str]:
    """Return the environment in which a process sees only the slot's GPUs; without a GPU, -1 hides all.

    CUDA numbers GPUs by speed unless set to the order of the PCI bus, as NVML uses.
    """
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(slot.gpu_ids) or "-1"}


def plan_environment(plan: TrialPlan, flags: str) -> dict[str, str]:
    """Return the environment in which XLA shares its compiled code with the trials of the study; make the folder.

    It is empty if XLA is off or has no folder. `flags` is TF_XLA_FLAGS so far, to which it adds the folder; a folder
    named there stays.
    """
    if not plan.cache_directory or plan.settings.xla == "off" or _XLA_CACHE in flags:
        return {}
    folder = Path(plan.cache_directory) / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a cache that cannot be kept costs time, not the trial
        return {}
    return {_XLA_FLAGS: f'{flags} {_XLA_CACHE}="{folder}"'.strip()}


def step_back(nice: int) -> None:
    """Let other programs go first: raise this process's nice level by `nice`."""
    if nice and hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(nice)


def export_trained(plan: Mapping[str, Any], source: str, weights: str, target: str) -> Mapping[str, Any]:
    """Export a trained model in a process of its own; see `mloptimizer.training.export.keras_export.export_model`.

    Args:
        plan: of the trial, as JSON data.
        source: the text of its search space.

    Raises:
        MloptimizerError: the model could not be rebuilt, written, or read again; it raises nothing else.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # an export needs no GPU and must not wait for a busy one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the import of TensorFlow prints lines that nothing turns off
    set_environment()
    from mloptimizer.training.export.keras_export import export_model
    from mloptimizer.training.trial_failures import describe_failure

    reset_keras()
    try:
        space, dataset = (plan["space"], source), dataset_from_json(plan.get("dataset", {}))
        return export_model(space, plan["params"], dataset, Path(weights), Path(target))
    except MloptimizerError:
        raise
    except Exception as error:  # noqa: BLE001  (Keras and the space may raise anything; the driver knows neither)
        raise RunError(f"export: {describe_failure(error).message}. Nothing was exported.") from None
