"""Runs one trial: builds the plan's model on the slot's devices, trains or tests it, and returns the result.

Guarantees: `run_trial` never raises; a failure is part of the result. The weights kept are those of the best epoch, and
reach the disk whole, once, and only when the trial has completed.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.engines.base import Emit, ShouldStop
from mloptimizer.records import (
    Decision,
    EpochRecord,
    FailureKind,
    Objective,
    Outcome,
    Phase,
    Slot,
    TrialPlan,
    TrialResult,
)
from mloptimizer.training.callbacks import Best, EpochFigures, FiniteLoss, StopOrder
from mloptimizer.training.compilation import choose_xla
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.failures import NonFiniteError, TrialStopped, describe_failure
from mloptimizer.training.model import Objectives, TrainableModel
from mloptimizer.training.network import build_network, load_weights, save_weights
from mloptimizer.training.optimizers import make_optimizer
from mloptimizer.training.pipeline import Evaluation, evaluation_batches, load_images, training_batches
from mloptimizer.training.precision import choose_precision, precision_policy
from mloptimizer.training.schedule import Steps, plan_learning_rate, plan_steps

WEIGHTS_FILE = "model.weights.h5"


@dataclass
class _Run:
    """A trial under way: its plan, whom to tell, and how long its parts took."""

    plan: TrialPlan
    emit: Emit
    should_stop: ShouldStop
    started: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)
    epochs_done: int = 0

    def decide(self, topic: str, choice: str, reason: str) -> None:
        self.emit(Decision(self.plan.number, topic, choice, reason))

    def record_epoch(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.epochs_done = epoch
        self.emit(EpochRecord(self.plan.number, epoch, metrics, seconds))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begun

    def result(self, outcome: Outcome, value: float | None = None, **more: Any) -> TrialResult:
        seconds = time.perf_counter() - self.started
        timings = {**self.timings, "total": seconds}
        return TrialResult(self.plan.number, outcome, value, seconds, timings=timings, **more)


@dataclass(frozen=True)
class _Setup:
    """What was chosen for a training, and its batches."""

    devices: Devices
    precision: str
    steps: Steps
    xla: bool
    training: Any
    validation: Evaluation


def run_trial(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Train the plan's model (or, for a verdict, test it once) and return the result; never raises.

    Every epoch is emitted as an `EpochRecord` with loss (as it is minimised), accuracy and top_k_accuracy, their
    validation twins (the loss without smoothing and penalties), learning_rate and images_per_second; every automatic
    choice as a `Decision`. The result's timings are setup, build, fit (with tracing and validation), save and total.

    Args:
        should_stop: asked at every batch; True ends the trial as pruned.
    """
    run = _Run(plan, emit, should_stop)
    try:
        return _test(run, slot) if plan.phase is Phase.VERDICT else _train(run, slot)
    except TrialStopped:
        return run.result(Outcome.PRUNED)
    except BaseException as error:  # noqa: BLE001  (the one place where a trial's exceptions become values)
        return run.result(Outcome.FAILED, failure=describe_failure(error))


def _train(run: _Run, slot: Slot) -> TrialResult:
    with run.part("setup"):
        setup = _set_up(run, slot)
    try:
        network, best = _fit(run, setup, setup.xla)
    except tf.errors.OpError as error:
        if not setup.xla or run.epochs_done or describe_failure(error).kind is not FailureKind.ERROR:
            raise
        run.decide("XLA", "off", f"compiling failed: {describe_failure(error).message}")
        network, best = _fit(run, setup, False)
    with run.part("save"):
        best.restore()
        weights = Path(run.plan.directory) / WEIGHTS_FILE
        save_weights(network, weights)
    return run.result(Outcome.COMPLETED, best.value, metrics=best.metrics, weights=str(weights))


def _set_up(run: _Run, slot: Slot) -> _Setup:
    plan = run.plan
    devices = configure_devices(slot, plan.settings.cpu_replicas, run.decide)
    precision = choose_precision(plan.settings.precision, devices, run.decide)
    steps = plan_steps(plan, devices.replicas, run.decide)
    xla = choose_xla(plan.settings.xla, devices, steps.total, run.decide)
    training = training_batches(load_images(plan.dataset, "train", run.decide), steps, plan.seed, devices.threads)
    images = load_images(plan.dataset, "validation", run.decide)
    return _Setup(devices, precision, steps, xla, training, evaluation_batches(images, steps.global_batch, devices))


def _fit(run: _Run, setup: _Setup, xla: bool) -> tuple[Any, Best]:
    """Train a new model and return its network, with the best state that it had."""
    plan, objective = run.plan, Objective(run.plan.settings.objective)
    with run.part("build"):
        network, model = _build(run, setup, xla)
    best = Best(network, objective)
    with run.part("fit"):
        if plan.initial_weights:
            best.offer(_evaluate_start(model, setup.validation))
        model.fit(
            setup.training,
            epochs=plan.epochs,
            steps_per_epoch=setup.steps.per_epoch,
            validation_data=setup.validation.batches,
            validation_steps=setup.validation.steps,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
            callbacks=[
                FiniteLoss(),
                EpochFigures(setup.steps.global_batch, run.record_epoch, best, plan.patience, objective),
                StopOrder(run.should_stop),
            ],
        )
    return network, best


def _build(run: _Run, setup: _Setup, xla: bool) -> tuple[Any, TrainableModel]:
    """Return the space's network and the model that trains it, on the devices and in the precision of the setup."""
    plan, devices = run.plan, setup.devices
    keras.utils.set_random_seed(plan.seed)
    with precision_policy(setup.precision), devices.scope():
        network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
        if plan.initial_weights:
            load_weights(network, plan.initial_weights)
        model = TrainableModel(network, _objectives(run), compile_replica=xla and devices.replicas > 1)
        optimizer = make_optimizer(
            plan.params,
            plan_learning_rate(plan.params, plan, setup.steps),
            model.trainable_variables,
            plan.settings.global_clipnorm,
            scale_loss=setup.precision == "mixed_float16",
        )
        model.compile(optimizer, jit_compile=xla and devices.replicas == 1, auto_scale_loss=False)
    return network, model


def _objectives(run: _Run) -> Objectives:
    classes, wanted = run.plan.dataset.classes, run.plan.settings.top_k
    k = min(wanted, max(classes - 1, 1))
    run.decide("top-k", f"k = {k}", f"top_k = {wanted}, {classes} classes")
    return Objectives(classes, k, float(run.plan.params.get("label_smoothing", 0.0)))


def _evaluate_start(model: TrainableModel, validation: Evaluation) -> dict[str, float]:
    """Return the validation figures of the initial weights, which are a candidate for the best."""
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    figures = model.figures()
    if not math.isfinite(figures["loss"]):
        raise NonFiniteError(f"the validation loss of the initial weights is {figures['loss']}")
    return {f"val_{name}": value for name, value in figures.items()}


def _test(run: _Run, slot: Slot) -> TrialResult:
    """Read the test set once, with the initial weights in float32, as the model is exported."""
    plan = run.plan
    with run.part("setup"):
        devices = configure_devices(slot, plan.settings.cpu_replicas, run.decide)
        run.decide("precision", "float32", "the model is tested as it is exported")
        batch = plan.settings.batch_size * devices.replicas
        test = evaluation_batches(load_images(plan.dataset, "test", run.decide), batch, devices)
    with run.part("build"), precision_policy("float32"), devices.scope():
        network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
        load_weights(network, plan.initial_weights)
        model = TrainableModel(network, _objectives(run))
        model.compile(None)
    with run.part("fit"):
        model.evaluate(test.batches, steps=test.steps, verbose=0, callbacks=[StopOrder(run.should_stop)])
    metrics = {f"test_{name}": value for name, value in model.figures().items()}
    if not math.isfinite(metrics["test_loss"]):
        raise NonFiniteError(f"the test loss is {metrics['test_loss']}")
    value = metrics[plan.settings.objective.replace("val_", "test_")]
    return run.result(Outcome.COMPLETED, value, metrics=metrics, weights=plan.initial_weights)
