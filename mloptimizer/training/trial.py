"""Runs one trial: builds the plan's model on the slot's devices, trains or tests it, and returns the result.

Guarantees: `run_trial` never raises; a failure is part of the result. A trial that was cut off can go on as if it had
not been. The weights kept are those of the best epoch, and reach the disk whole, once, and only when the trial has
completed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from mloptimizer.core.events import Emit, ShouldStop
from mloptimizer.core.nouns import FailureKind, Objective, Outcome, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import CHECKPOINTS, WEIGHTS
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.callbacks import (
    AveragedWeights,
    Best,
    EpochFigures,
    LowerRate,
    PartsOfFit,
    SignsOfLife,
    SpareMemory,
    StepProfile,
    StopOrder,
)
from mloptimizer.training.checkpoints.checkpoint_files import keep_only
from mloptimizer.training.checkpoints.saving import (
    Checkpoints,
    CheckpointWriter,
    Part,
    TrainingState,
    identify_training,
    resume_training,
)
from mloptimizer.training.input.pipeline import Evaluation, evaluation_batches, load_images
from mloptimizer.training.memory.batch_plan import plan_batch
from mloptimizer.training.network import save_weights
from mloptimizer.training.run import Run
from mloptimizer.training.setup import Prepared, choose_devices, choose_objectives, make_model, make_network, set_up
from mloptimizer.training.step.precision import FLOAT32, precision_policy
from mloptimizer.training.step.schedule import Plateau, plan_plateau
from mloptimizer.training.step.stability import GoBack, checked_numerics, find_bad_layer
from mloptimizer.training.step.training_model import StepOptions, TrainableModel
from mloptimizer.training.trial_failures import NonFiniteError, TrialStopped, describe_failure

PROFILE_FOLDER = "profile"  # in the trial's folder, for TensorBoard


def run_trial(
    plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop, clock: TrainingClock | None = None
) -> TrialResult:
    """Train the plan's model (or, for a test evaluation, test it once) and return the result; never raises.

    Every epoch is emitted as an `EpochRecord` with loss (as it is minimised), accuracy and top_k_accuracy, their
    validation twins (the loss without smoothing and penalties), learning_rate, images_per_second, data_wait_percent,
    gradient_norm and skipped_steps; every automatic choice as a `Decision`. The result's timings are setup, build, fit
    (with tracing and validation), save and total, and, as parts of fit, first_step, training, validation and
    checkpoint: what the training waited until its checkpoints were read, copied and, as far as that took longer than an
    epoch, written.

    With `plan.resumes` the training goes on from the newest whole checkpoint in the plan's directory, as if it had
    never been cut off; otherwise those that are left there are removed. When an epoch is emitted, the checkpoint of the
    one before, if one was due, is on the disk. The trial leaves its last checkpoint, also of the last epoch. Epochs
    that a checkpoint knows beyond `plan.recorded_epochs` are emitted again.

    Args:
        should_stop: asked at every batch; True ends the trial as pruned.
        clock: is told what the trial does meanwhile, for its hardware log.
    """
    run = Run(plan, emit, should_stop, clock=clock or TrainingClock())
    try:
        return _test(run, slot) if plan.phase is Phase.TEST_EVALUATION else _train(run, slot)
    except TrialStopped:
        return run.result(Outcome.PRUNED)
    except BaseException as error:  # noqa: BLE001  (the one place where a trial's exceptions become values)
        return run.result(Outcome.FAILED, failure=describe_failure(error))


def _train(run: Run, slot: Slot) -> TrialResult:
    settings = run.plan.settings
    with checked_numerics(settings.check_numerics):
        with run.part("setup"):
            prepared = set_up(run.plan, slot, run.decide, run.divide)
            setup = prepared.setup
        try:
            best = _fit(run, prepared, setup.options.xla)
        except tf.errors.OpError as error:
            if not setup.options.xla or run.epochs_done or describe_failure(error).kind is not FailureKind.ERROR:
                raise
            run.decide("XLA", "off", f"compiling failed: {describe_failure(error).message}")
            prepared = replace(prepared, network=make_network(run.plan, setup.devices, setup.precision))
            best = _fit(run, prepared, False)
    if best.value is None:
        raise NonFiniteError("no epoch had a validation loss that is finite")
    with run.part("save"):
        best.restore()
        weights = Path(run.plan.directory) / WEIGHTS
        save_weights(prepared.network, weights)
    return run.result(Outcome.COMPLETED, best.value, metrics=best.metrics, weights=str(weights))


def _fit(run: Run, prepared: Prepared, xla: bool) -> Best:
    """Train the network, or go on with its training, and return the best state that it had."""
    plan, setup = run.plan, prepared.setup
    with run.part("build"):
        model = make_model(plan, prepared.network, setup, xla, run.decide)
    followed = _follow(run, prepared, model)
    with run.part("fit"), precision_policy(setup.precision):
        epochs_done = followed.start()
        if plan.initial_weights and not epochs_done:
            with run.clock.during("validation"):
                followed.best.offer(_evaluate_start(model, prepared.validation))
        run.clock.follow(setup.steps.global_batch, lambda: (model.steps_run, model.seconds_waited))
        if epochs_done < plan.epochs and not followed.figures.is_over(epochs_done):
            try:
                model.fit(
                    prepared.training.start(epochs_done * setup.steps.per_epoch),
                    initial_epoch=epochs_done,
                    epochs=plan.epochs,
                    steps_per_epoch=setup.steps.per_epoch,
                    validation_data=prepared.validation.batches,
                    validation_steps=prepared.validation.steps,
                    shuffle=False,  # the batches are shuffled already
                    verbose=0,
                    callbacks=followed.callbacks,
                )
            finally:
                followed.wait()
    run.timings["first_step"] = followed.figures.first_call_seconds
    return followed.best


@dataclass(frozen=True)
class _Followed:
    """What follows a training."""

    best: Best
    figures: EpochFigures
    callbacks: list[keras.callbacks.Callback]
    start: Callable[[], int]  # goes on from a checkpoint, or starts anew; returns how many epochs are done
    wait: Callable[[], None]  # returns when the last checkpoint is on the disk


def _follow(run: Run, prepared: Prepared, model: TrainableModel) -> _Followed:
    plan, settings, steps = run.plan, run.plan.settings, prepared.setup.steps
    folder, timed = Path(plan.directory) / CHECKPOINTS, partial(run.part, "checkpoint")
    writer = CheckpointWriter(folder, run.decide)
    objective = Objective(settings.objective)

    def wait() -> None:
        if settings.checkpoint_epochs:
            with timed():
                writer.wait()

    def record(epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        wait()  # who is told of an epoch may rely on the checkpoint of the one before
        run.emit(run.add_epoch(epoch, metrics, seconds))

    def start() -> int:
        if not plan.resumes:
            keep_only(folder, ())
            return 0
        with timed():
            return resume_training(folder, identity, state, run.decide)

    def find_layer(step: int) -> str:
        return find_bad_layer(prepared.network, prepared.training.batch(step)[0])

    best = Best(prepared.network, objective)
    figures = EpochFigures(steps.global_batch, record, best, plan.patience, objective)
    go_back = GoBack(settings.nan_patience, settings.nan_retries, find_layer, run.decide)
    plateau = plan_plateau(plan.params, plan)
    parts: dict[str, Part] = {"best": best, "figures": figures, "go_back": go_back, "epochs": run}
    state = TrainingState(model, prepared.network, parts | ({"plateau": plateau} if plateau else {}))
    identity = identify_training(plan, steps)
    callbacks = [figures, PartsOfFit(run.clock), go_back, *_callbacks(run, plateau, figures)]
    if settings.checkpoint_epochs:
        take = partial(state.take, identity=identity)
        callbacks.append(Checkpoints(writer, take, settings.checkpoint_epochs, figures, timed))
    return _Followed(best, figures, callbacks, start, wait)


def _callbacks(run: Run, plateau: Plateau | None, figures: EpochFigures) -> list[keras.callbacks.Callback]:
    """Return what else follows the training; the moving average stands last, behind what may bring weights back."""
    plan, settings = run.plan, run.plan.settings
    callbacks = [*_watchers(run), SpareMemory(settings.memory_threshold)]
    if plateau:
        callbacks.append(LowerRate(plateau, figures))
    if plan.profiled:
        callbacks.append(StepProfile(Path(plan.directory) / PROFILE_FOLDER))
    if settings.ema_momentum:
        callbacks.append(AveragedWeights())
    return callbacks


def _watchers(run: Run) -> list[keras.callbacks.Callback]:
    return [StopOrder(run.should_stop), SignsOfLife(run.sign)]


def _evaluate_start(model: TrainableModel, validation: Evaluation) -> dict[str, float]:
    """Return the validation figures of the initial weights, which are a candidate for the best."""
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    figures = model.figures()
    if not math.isfinite(figures["loss"]):
        raise NonFiniteError(f"the validation loss of the initial weights is {figures['loss']}")
    return {f"val_{name}": value for name, value in figures.items()}


def _test(run: Run, slot: Slot) -> TrialResult:
    """Read the test set once, with the initial weights in float32, as the model is exported."""
    plan = run.plan
    with run.part("setup"):
        devices = choose_devices(plan, slot, run.decide)
        run.decide("precision", "float32", "the model is tested as it is exported")
        batch = plan_batch(plan.settings, plan.dataset.train_size, devices.replicas, plan.accumulation_steps)
        images = load_images(plan.dataset, "test", run.decide, plan.settings.data_cache)
        test = evaluation_batches(images, batch.micro_batch * devices.replicas, devices)
    with run.part("build"):
        network = make_network(plan, devices, FLOAT32)
        with precision_policy(FLOAT32), devices.scope():
            options = StepOptions(deterministic=plan.settings.deterministic)
            model = TrainableModel(network, choose_objectives(plan, run.decide), options)
            model.compile(None)
    with run.part("fit"):
        model.evaluate(test.batches, steps=test.steps, verbose=0, callbacks=[*_watchers(run), PartsOfFit(run.clock)])
    metrics = {f"test_{name}": value for name, value in model.figures().items()}
    if not math.isfinite(metrics["test_loss"]):
        raise NonFiniteError(f"the test loss is {metrics['test_loss']}")
    value = metrics[plan.settings.objective.replace("val_", "test_")]
    return run.result(Outcome.COMPLETED, value, metrics=metrics, weights=plan.initial_weights)
