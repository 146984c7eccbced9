"""Chooses the devices of this process and the strategy that trains on them.

Guarantees: devices are configured once per process; a later trial reuses them, or gets one clear error if they do not
fit. One device trains without a strategy, several under one `MirroredStrategy` without autotuned device buffers.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import tensorflow as tf

from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import Slot
from mloptimizer.hardware.read.machine import available_memory_mb
from mloptimizer.training.tensorflow_internals import leave_device_buffers_untuned

Decide = Callable[[str, str, str], None]
"""Records an automatic choice: topic, choice, reason."""


@dataclass(frozen=True)
class Devices:
    """The devices of a trial."""

    kind: str  # "GPU" or "CPU"
    replicas: int
    threads: int  # cores of the trial
    strategy: Any = None  # tf.distribute.Strategy; None with one device
    compute_capability: tuple[int, int] | None = None  # the lowest of its GPUs
    memory_mb: int = 0  # available to one replica; 0: unknown

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context for making variables."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()


_strategies: dict[tuple[str, ...], Any] = {}


def configure_devices(
    slot: Slot, cpu_replicas: int, decide: Decide, gpu_memory_limit_mb: int | Literal["auto"] = "auto"
) -> Devices:
    """Return the slot's devices, configured; the environment has already hidden the GPUs of other slots.

    Args:
        cpu_replicas: logical devices into which the CPU is split without a GPU.
        gpu_memory_limit_mb: this process's limit on each GPU, MB; auto: it grows as needed.

    Raises:
        RunError: TensorFlow does not see the slot's GPUs, or this process already runs on other devices.
    """
    threads = slot.threads or len(slot.cpu_ids) or os.cpu_count() or 1
    gpus = _visible_gpus(slot, gpu_memory_limit_mb)
    _before_start(partial(tf.config.threading.set_intra_op_parallelism_threads, threads))
    # Two operations at once, and two more for each GPU to feed.
    _before_start(partial(tf.config.threading.set_inter_op_parallelism_threads, 2 + 2 * len(gpus)))
    cores = len(slot.cpu_ids) or os.cpu_count() or 1
    decide("threads", f"{threads} within an operation", f"{cores} cores, and those of idle slots when no trial waits")
    if gpus:
        memory_mb = slot.gpu_memory_mb if gpu_memory_limit_mb == "auto" else gpu_memory_limit_mb
        return replace(_on_gpus(gpus, threads, decide), memory_mb=memory_mb)
    memory_mb = slot.memory_mb or available_memory_mb()
    return replace(_on_cpu(cpu_replicas, threads, decide), memory_mb=memory_mb // cpu_replicas)


def count_gpus() -> int:
    """Return how many GPUs TensorFlow sees in this process."""
    return len(tf.config.list_physical_devices("GPU"))


def _visible_gpus(slot: Slot, limit_mb: int | Literal["auto"]) -> list[Any]:
    gpus = tf.config.list_physical_devices("GPU")
    wanted = len(slot.gpu_ids)
    if wanted > len(gpus):
        raise RunError(
            f"slot {slot.name}: has {wanted} GPUs but TensorFlow sees {len(gpus)}. Install the GPU build with "
            "pip install 'mloptimizer[gpu]', and ask `mloptimizer doctor`."
        )
    chosen = gpus[:wanted]
    if len(gpus) > wanted:
        _before_start(lambda: tf.config.set_visible_devices(chosen, "GPU"))
    for gpu in chosen:
        if limit_mb == "auto":
            _before_start(partial(tf.config.experimental.set_memory_growth, gpu, True))
        else:
            part = tf.config.LogicalDeviceConfiguration(memory_limit=limit_mb)
            _before_start(partial(tf.config.set_logical_device_configuration, gpu, [part]))
    return chosen


def _before_start(configure: Callable[[], None]) -> None:
    """Set what TensorFlow accepts only before it starts its devices; a later trial keeps the setting."""
    with contextlib.suppress(RuntimeError):
        configure()


def _on_gpus(gpus: list[Any], threads: int, decide: Decide) -> Devices:
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    major, minor = min(found.get("compute_capability", (0, 0)) for found in details)
    capability = int(major), int(minor)
    if len(gpus) == 1:
        decide("strategy", "none", "one GPU needs no strategy")
        return Devices("GPU", 1, threads, compute_capability=capability)
    names = tuple(gpu.name for gpu in tf.config.list_logical_devices("GPU")[: len(gpus)])
    decide("strategy", "MirroredStrategy", f"{len(gpus)} GPUs train one model")
    decide("cross-device ops", "NcclAllReduce", "it sums gradients over physical NVIDIA GPUs")
    strategy = _mirrored(names, tf.distribute.NcclAllReduce())
    return Devices("GPU", len(names), threads, strategy, capability)


def _on_cpu(replicas: int, threads: int, decide: Decide) -> Devices:
    if replicas == 1:
        decide("strategy", "none", "one CPU needs no strategy")
        return Devices("CPU", 1, threads)
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    _before_start(partial(tf.config.set_logical_device_configuration, cpu, parts))
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < replicas:
        raise RunError(
            f"cpu_replicas = {replicas}: this process has already started with {len(devices)} logical CPUs. "
            "Train it in a process of its own."
        )
    decide("strategy", "MirroredStrategy", f"cpu_replicas = {replicas} splits the CPU into logical devices")
    decide("cross-device ops", "ReductionToOneDevice", "NCCL only joins GPUs, and logical CPUs share one memory")
    names = tuple(device.name for device in devices[:replicas])
    return Devices("CPU", replicas, threads, _mirrored(names, tf.distribute.ReductionToOneDevice()))


def _mirrored(names: tuple[str, ...], cross_device_ops: Any) -> Any:
    leave_device_buffers_untuned()
    if names not in _strategies:
        _strategies[names] = tf.distribute.MirroredStrategy(list(names), cross_device_ops=cross_device_ops)
    return _strategies[names]
