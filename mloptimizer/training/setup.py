"""Prepares a training: devices, number format, micro-batches and batches, as settings and machine allow."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import FailureKind, Params, Phase, Slot, TrialPlan
from mloptimizer.spaces.training_values import check_training_values
from mloptimizer.spaces.unused_values import ReadParams, list_unused
from mloptimizer.training.devices import Decide, Devices, configure_devices
from mloptimizer.training.export.openable import REMEDY, find_own_code
from mloptimizer.training.input import pipeline
from mloptimizer.training.input.augmentation import choose_augmentation
from mloptimizer.training.memory.batch_plan import BatchPlan, largest_automatic_batch, plan_batch
from mloptimizer.training.memory.estimate import Estimate, MemoryPlan, estimate_memory, plan_memory
from mloptimizer.training.memory.fastest_batch import SMALLEST_BATCH, choose_batch_size, identify_model, measure_speed
from mloptimizer.training.network import build_network, check_outputs, load_weights
from mloptimizer.training.step.compilation import can_compile, choose_xla
from mloptimizer.training.step.optimizers import choose_rule, make_optimizer
from mloptimizer.training.step.precision import FLOAT32, Precision, choose_precision, precision_policy
from mloptimizer.training.step.schedule import Steps, plan_learning_rate, plan_steps
from mloptimizer.training.step.training_model import Objectives, StepOptions, TrainableModel
from mloptimizer.training.trial_failures import SpaceError, describe_failure

STEPS_PER_EXECUTION_ON_GPUS = 8  # on a GPU, launching a small step from Python takes as long as computing it

Divided = Callable[[BatchPlan, float], None]
"""Takes the micro-batches of a step, and the estimated memory of a replica, MB."""


@dataclass(frozen=True)
class Setup:
    """The choices made for a training."""

    devices: Devices
    precision: Precision
    batch: BatchPlan
    steps: Steps
    options: StepOptions


@dataclass(frozen=True)
class Prepared:
    """A training that is ready to start."""

    setup: Setup
    network: Any
    training: pipeline.TrainingBatches
    validation: pipeline.Evaluation


def set_up(plan: TrialPlan, slot: Slot, decide: Decide, divided: Divided = lambda *_: None) -> Prepared:
    """Choose how to train the plan on the slot, and prepare it.

    Args:
        divided: is called when the micro-batches are known.

    Raises:
        SpaceError, DataError, UsageError, RunError: it cannot be trained.
    """
    settings = plan.settings
    try:
        check_training_values(plan.params, f"search space '{plan.space}'")
    except UsageError as error:
        raise SpaceError(str(error)) from error
    devices = choose_devices(plan, slot, decide)
    precision = _choose_precision(settings, devices, decide)
    network = _make_first(plan, devices, precision, decide)
    insists = settings.xla == "on" and "xla" not in plan.tuned
    compilable = settings.xla == "off" or can_compile(network, devices, insists, decide)
    batch, memory = _divide_step(plan, network, (devices, precision), compilable and settings.xla == "on", decide)
    divided(batch, memory.estimate.total_mb)
    steps = plan_steps(plan, batch, decide)
    xla = compilable and choose_xla(settings, devices, steps.total, decide)
    images = pipeline.load_images(plan.dataset, "train", decide, settings.data_cache)
    on_device = pipeline.choose_on_device(settings.data_on_device, images, devices, memory.estimate.total_mb, decide)
    prefetch = pipeline.PREFETCHED_BATCHES if settings.prefetch_batches == "auto" else settings.prefetch_batches
    augmentation = choose_augmentation(plan, decide)
    training = pipeline.training_batches(
        images, steps, plan.seed, devices, augmentation, prefetch=prefetch, on_device=on_device
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
    validation = pipeline.load_images(plan.dataset, "validation", decide, settings.data_cache)
    evaluation = pipeline.evaluation_batches(validation, batch.micro_batch * devices.replicas, devices)
    return Prepared(Setup(devices, precision, batch, steps, options), network, training, evaluation)


def _divide_step(
    plan: TrialPlan, network: Any, means: tuple[Devices, Precision], xla: bool, decide: Decide
) -> tuple[BatchPlan, MemoryPlan]:
    """Return the batch sizes of a step and its micro-batches, and how to compute them so that they fit."""
    settings, images, (devices, precision) = plan.settings, plan.dataset.train_size, means
    batch = plan_batch(settings, images, devices.replicas, plan.accumulation_steps)
    vectors = choose_rule(plan.params).states + bool(settings.ema_momentum)

    def estimate(micro_batch: int, remat: bool) -> Estimate:
        return estimate_memory(network, micro_batch, precision.policy, vectors, remat, devices.kind == "CPU")

    if settings.batch_size == "auto":
        largest = largest_automatic_batch(images, devices.replicas)
        while largest > SMALLEST_BATCH and not estimate(largest, settings.remat == "on").fits(devices.memory_mb):
            largest //= 2
        options = StepOptions(remat=settings.remat == "on", xla=xla, deterministic=settings.deterministic)
        throwaway = Setup(devices, precision, batch, Steps(batch.global_batch, 1, 1000, 1.0), options)
        per_replica = _find_batch(plan, network, throwaway, largest, decide)
        batch = plan_batch(settings, images, devices.replicas, plan.accumulation_steps, per_replica)
    memory = plan_memory(network, batch, settings, estimate, devices.memory_mb, decide)
    return replace(batch, accumulation_steps=memory.accumulation_steps), memory


def _find_batch(plan: TrialPlan, network: Any, throwaway: Setup, largest: int, decide: Decide) -> int:
    """Return the images per replica that train fastest, measured on a throw-away model of the same shape."""
    devices, precision, options = throwaway.devices, throwaway.precision, throwaway.options
    name = identify_model(network, precision.name, options.xla, options.remat, devices.kind, devices.replicas)
    record = Path(plan.cache_directory) / "batches" / f"{name}.json" if plan.cache_directory else None
    models: list[TrainableModel] = []

    def make(xla: bool) -> TrainableModel:
        return make_model(plan, make_network(plan, devices, precision), throwaway, xla, lambda *_: None)

    def measure(size: int) -> float:
        models[:] = models or [make(options.xla)]
        shape, classes = (size * devices.replicas, *plan.dataset.input_shape), plan.dataset.classes
        try:
            return measure_speed(models[0], shape, classes)
        except tf.errors.OpError as error:
            if not models[0].options.xla or describe_failure(error).kind is not FailureKind.ERROR:
                raise
            models[:] = [make(False)]  # XLA cannot compile it; the training will report that
            return measure_speed(models[0], shape, classes)

    return choose_batch_size(measure, largest, record, decide, (plan.number, plan.attempt))


def choose_devices(plan: TrialPlan, slot: Slot, decide: Decide) -> Devices:
    """Return the slot's devices, configured by the settings."""
    settings = plan.settings
    if settings.deterministic:
        keras.utils.set_random_seed(plan.seed)  # without seeds, TensorFlow refuses random operations
        tf.config.experimental.enable_op_determinism()
        decide("determinism", "on", "set by the user; XLA stays off")
    return configure_devices(slot, settings.cpu_replicas, decide, settings.gpu_memory_limit_mb)


def _choose_precision(settings: Settings, devices: Devices, decide: Decide) -> Precision:
    if settings.check_numerics and settings.precision in ("auto", "mixed_float16"):
        decide("precision", "float32", "check_numerics is on, and the loss scale of float16 needs overflows")
        return FLOAT32
    return choose_precision(settings.precision, devices, decide)


def _make_first(plan: TrialPlan, devices: Devices, precision: Precision, decide: Decide) -> Any:
    """Return the network; for a new configuration, check that its values are used and its outputs are trainable."""
    params = ReadParams(plan.params)
    explored = plan.resumes or plan.phase is not Phase.EXPLORATION  # perhaps by a version that checked less
    network = make_network(plan, devices, precision, None if explored else params)
    if not plan.initial_weights and not plan.resumes:
        check_outputs(network, plan.space)
        if reason := find_own_code(network):
            decide("export", "not possible", f"{reason}. {REMEDY}.")
    if not explored and (unused := list_unused(params)):
        decide("unused values", ", ".join(unused), "sample returned them, and build did not read them here")
    return network


def make_network(plan: TrialPlan, devices: Devices, precision: Precision, params: Params | None = None) -> Any:
    """Return the space's network, initialised from the plan's seed or with its initial weights."""
    keras.utils.set_random_seed(plan.seed)
    with precision_policy(precision), devices.scope():
        network = build_network(plan.space, plan.space_source, plan.params if params is None else params, plan.dataset)
        if plan.initial_weights:
            load_weights(network, plan.initial_weights)
    keras.utils.set_random_seed(plan.seed)  # however much the space's code has drawn
    return network


def make_model(plan: TrialPlan, network: Any, setup: Setup, xla: bool, decide: Decide) -> TrainableModel:
    """Return the model that trains the network as set up, with or without XLA."""
    options, settings = replace(setup.options, xla=xla), plan.settings
    with precision_policy(setup.precision), setup.devices.scope():
        model = TrainableModel(network, choose_objectives(plan, decide), options)
        if options.remat:
            decide("remat", f"{model.recomputed} segments", "set, or to save memory; the others cannot run twice")
        threshold = f"clip_threshold {settings.clip_threshold}, after the sum over the replicas"
        decide("clipping", settings.clipping, threshold)
        if settings.ema_momentum:
            decide("moving average", f"momentum {settings.ema_momentum:g}", "the trial validates and keeps it")
        rate, scaled = plan_learning_rate(plan, setup.steps), setup.precision.scales_loss
        optimizer = make_optimizer(plan.params, rate, model.trainable_variables, settings, scale_loss=scaled)
        model.compile(optimizer, auto_scale_loss=False, steps_per_execution=options.per_execution)
    return model


def choose_objectives(plan: TrialPlan, decide: Decide) -> Objectives:
    """Return the loss and metrics of the plan; the k of the top-k accuracy stays below the number of classes."""
    classes, wanted = plan.dataset.classes, plan.settings.top_k
    k = min(wanted, max(classes - 1, 1))
    decide("top-k", f"k = {k}", f"top_k = {wanted}, {classes} classes")
    return Objectives(classes, k, float(plan.params.get("label_smoothing", 0.0)))


def _steps_per_execution(setting: int | Literal["auto"], devices: Devices, decide: Decide) -> int:
    if setting != "auto":
        count, reason = setting, "set by the user, or measured by tune"
    elif devices.kind == "GPU":
        count, reason = STEPS_PER_EXECUTION_ON_GPUS, "a GPU waits while Python launches a step"
    else:
        count, reason = 1, "on a CPU a call costs little"
    decide("steps per execution", str(count), reason)
    return count
