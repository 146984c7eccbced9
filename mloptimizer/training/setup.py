"""Prepares a training: devices, number format, division of a step, and the batches, as settings and machine allow."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from mloptimizer.batches import BatchPlan, largest_automatic_batch, plan_batch
from mloptimizer.records import Slot, TrialPlan
from mloptimizer.training.augmentation import choose_augmentation
from mloptimizer.training.batch_size import SMALLEST_BATCH, choose_batch_size, identify_model, measure_speed
from mloptimizer.training.compilation import can_compile, choose_xla
from mloptimizer.training.devices import Decide, Devices, configure_devices
from mloptimizer.training.memory import Estimate, MemoryPlan, estimate_memory, plan_memory
from mloptimizer.training.model import Objectives, StepOptions, TrainableModel
from mloptimizer.training.network import build_network, load_weights
from mloptimizer.training.optimizers import choose_rule, make_optimizer
from mloptimizer.training.pipeline import (
    PREFETCHED_BATCHES,
    Evaluation,
    TrainingBatches,
    choose_on_device,
    evaluation_batches,
    load_images,
    training_batches,
)
from mloptimizer.training.precision import Precision, choose_precision, precision_policy
from mloptimizer.training.schedule import Steps, plan_learning_rate, plan_steps

STEPS_PER_EXECUTION_ON_GPUS = 8  # launching a small step from Python takes a GPU as long as computing it


@dataclass(frozen=True)
class Setup:
    """What was chosen for a training."""

    devices: Devices
    precision: Precision
    batch: BatchPlan
    steps: Steps
    options: StepOptions
    memory_mb: float = 0.0  # estimated peak of a replica


@dataclass(frozen=True)
class Prepared:
    """A training that can begin."""

    setup: Setup
    network: Any
    training: TrainingBatches
    validation: Evaluation


def set_up(plan: TrialPlan, slot: Slot, decide: Decide) -> Prepared:
    """Choose how the plan is trained on the slot, and prepare that.

    Raises:
        SpaceError, DataError, UsageError, RunError: it cannot be trained.
    """
    settings = plan.settings
    devices, precision = choose_devices(plan, slot, decide)
    network = make_network(plan, devices, precision)
    batch, memory = _divide_step(plan, network, devices, precision, decide)
    steps = plan_steps(plan, batch, decide)
    xla = choose_xla(settings, devices, steps.total, decide) and can_compile(network, devices, settings.xla, decide)
    images = load_images(plan.dataset, "train", decide, settings.data_cache)
    on_device = choose_on_device(settings.data_on_device, images, devices, decide)
    training = training_batches(
        images,
        steps,
        plan.seed,
        devices,
        choose_augmentation(plan, decide),
        prefetch=PREFETCHED_BATCHES if settings.prefetch_batches == "auto" else settings.prefetch_batches,
        on_device=on_device,
    )
    options = StepOptions(
        per_epoch=steps.per_epoch,
        per_execution=_steps_per_execution(settings.steps_per_execution, devices, decide),
        accumulation_steps=batch.accumulation_steps,
        remat=memory.remat,
        xla=xla,
        deterministic=settings.deterministic,
        prepare=training.prepare,
    )
    validation = load_images(plan.dataset, "validation", decide, settings.data_cache)
    evaluation = evaluation_batches(validation, batch.micro_batch * devices.replicas, devices)
    setup = Setup(devices, precision, batch, steps, options, memory.estimate.total_mb)
    return Prepared(setup, network, training, evaluation)


def _divide_step(
    plan: TrialPlan, network: Any, devices: Devices, precision: Precision, decide: Decide
) -> tuple[BatchPlan, MemoryPlan]:
    """Return how many images a step and its parts have, and how the parts are computed so that they fit."""
    settings = plan.settings
    images, replicas = plan.dataset.train_size, devices.replicas
    batch = plan_batch(settings, images, replicas, plan.accumulation_steps)
    states = choose_rule(plan.params).states

    def estimate(micro_batch: int, remat: bool) -> Estimate:
        return estimate_memory(network, micro_batch, precision.policy, states, bool(settings.ema_momentum), remat)

    if settings.batch_size == "auto":
        largest = largest_automatic_batch(images, replicas)
        while largest > SMALLEST_BATCH and not estimate(largest, settings.remat == "on").fits(devices.memory_mb):
            largest //= 2
        per_replica = _find_batch(plan, network, devices, precision, largest, decide)
        batch = plan_batch(settings, images, replicas, plan.accumulation_steps, per_replica)
    memory = plan_memory(network, batch, settings, estimate, devices.memory_mb, decide)
    return replace(batch, accumulation_steps=memory.accumulation_steps), memory


def _find_batch(
    plan: TrialPlan, network: Any, devices: Devices, precision: Precision, largest: int, decide: Decide
) -> int:
    """Return the images per replica that train fastest, measured on a throw-away model of the same shape."""
    settings = plan.settings
    name = identify_model(network, precision.name, settings.xla, settings.remat, devices.kind, devices.replicas)
    record = Path(plan.cache_directory) / "batches" / f"{name}.json" if plan.cache_directory else None
    options = StepOptions(remat=settings.remat == "on", xla=settings.xla == "on")
    batch = plan_batch(settings, plan.dataset.train_size, devices.replicas)
    throwaway = Setup(devices, precision, batch, Steps(batch.global_batch, 1, 1000, 1.0), options)
    models: list[TrainableModel] = []

    def measure(size: int) -> float:
        if not models:
            again = make_network(plan, devices, precision)
            models.append(make_model(plan, again, throwaway, options.xla, lambda *_: None))
        return measure_speed(models[0], (size * devices.replicas, *plan.dataset.input_shape), plan.dataset.classes)

    return choose_batch_size(measure, largest, record, decide)


def choose_devices(plan: TrialPlan, slot: Slot, decide: Decide) -> tuple[Devices, Precision]:
    """Return the slot's devices, configured as the settings say, and the number format for them."""
    settings = plan.settings
    if settings.deterministic:
        keras.utils.set_random_seed(plan.seed)  # without seeds, TensorFlow refuses random operations
        tf.config.experimental.enable_op_determinism()
        decide("determinism", "on", "set by the person; XLA stays off")
    devices = configure_devices(slot, settings.cpu_replicas, decide, settings.gpu_memory_limit_mb)
    return devices, choose_precision(settings.precision, devices, decide)


def make_network(plan: TrialPlan, devices: Devices, precision: Precision) -> Any:
    """Return the space's network, new from the plan's seed or with the weights to start from."""
    keras.utils.set_random_seed(plan.seed)
    with precision_policy(precision), devices.scope():
        network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
        if plan.initial_weights:
            load_weights(network, plan.initial_weights)
    return network


def make_model(plan: TrialPlan, network: Any, setup: Setup, xla: bool, decide: Decide) -> TrainableModel:
    """Return the compiled model that trains the network as the setup says, compiled by XLA or not."""
    options = replace(setup.options, xla=xla)
    with precision_policy(setup.precision), setup.devices.scope():
        model = TrainableModel(network, choose_objectives(plan, decide), options)
        rate = plan_learning_rate(plan.params, plan, setup.steps)
        scaled = setup.precision.scales_loss
        optimizer = make_optimizer(plan.params, rate, model.trainable_variables, plan.settings, scale_loss=scaled)
        model.compile(optimizer, auto_scale_loss=False, steps_per_execution=options.per_execution)
    return model


def choose_objectives(plan: TrialPlan, decide: Decide) -> Objectives:
    """Return what the plan's model is measured by: the k of the top-k accuracy stays below the number of classes."""
    classes, wanted = plan.dataset.classes, plan.settings.top_k
    k = min(wanted, max(classes - 1, 1))
    decide("top-k", f"k = {k}", f"top_k = {wanted}, {classes} classes")
    return Objectives(classes, k, float(plan.params.get("label_smoothing", 0.0)))


def _steps_per_execution(setting: int | Literal["auto"], devices: Devices, decide: Decide) -> int:
    if setting != "auto":
        return setting
    count = STEPS_PER_EXECUTION_ON_GPUS if devices.kind == "GPU" else 1
    reason = "launching a step costs a GPU time" if devices.kind == "GPU" else "on a CPU a call costs little"
    decide("steps per execution", str(count), reason)
    return count
