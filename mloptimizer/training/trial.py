"""Runs one trial: builds the plan's model on the slot's devices, trains or tests it, and returns the result.

Guarantees: `run_trial` never raises; a failure is part of the result. An interrupted trial can resume as if nothing had
happened. The weights of the best epoch are written once, as a whole file, and only when the trial has completed.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from mloptimizer.core.events import Emit, ShouldStop
from mloptimizer.core.nouns import FailureKind, Objective, Outcome, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import CHECKPOINTS, WEIGHTS
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training import callbacks
from mloptimizer.training.checkpoints import saving
from mloptimizer.training.checkpoints.checkpoint_files import keep_only
from mloptimizer.training.input.pipeline import Evaluation, evaluation_batches, load_images
from mloptimizer.training.memory.batch_plan import plan_batch
from mloptimizer.training.network import save_weights
from mloptimizer.training.run import Run
from mloptimizer.training.setup import Prepared, choose_devices, choose_objectives, make_model, make_network, set_up
from mloptimizer.training.step.precision import FLOAT32, precision_policy
from mloptimizer.training.step.schedule import plan_plateau
from mloptimizer.training.step.stability import GoBack, checked_numerics, find_bad_layer
from mloptimizer.training.step.training_model import StepOptions, TrainableModel
from mloptimizer.training.trial_failures import NonFiniteError, TrialStopped, describe_failure

PROFILE_FOLDER = "profile"  # in the trial's folder, for TensorBoard


def run_trial(
    plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop, clock: TrainingClock | None = None
) -> TrialResult:
    """Train the plan's model (or, for a test evaluation, test it once) and return the result; never raises.

    Every epoch is emitted as an `EpochRecord` with loss (as minimised), accuracy and top_k_accuracy, the same on the
    validation data (the loss without smoothing and penalties), learning_rate, images_per_second, data_wait_percent,
    gradient_norm and skipped_steps; every automatic choice as a `Decision`. The result's timings are setup, build, fit
    (with tracing and validation), save and total, and, as parts of fit, first_step, training, validation and
    checkpoint: the time that the training waited for reading, copying and writing checkpoints.

    With `plan.resumes` the training resumes from the newest whole checkpoint in the plan's directory; otherwise it
    removes the checkpoints there. Before an epoch is emitted, the checkpoint of the one before is on the disk. The
    last epoch's checkpoint remains. Epochs in a checkpoint beyond `plan.recorded_epochs` are emitted again.

    Args:
        should_stop: asked at every batch; True ends the trial as pruned.
        clock: receives what the trial is doing, for the hardware log.
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
        raise NonFiniteError("no epoch had a finite validation loss")
    with run.part("save"):
        best.restore()
        weights = Path(run.plan.directory) / WEIGHTS
        save_weights(prepared.network, weights)
    return run.result(Outcome.COMPLETED, best.value, metrics=best.metrics, weights=str(weights))


def _fit(run: Run, prepared: Prepared, xla: bool) -> callbacks.Best:
    """Train the network, from the start or from a checkpoint, and return the best state that it had."""
    plan, setup = run.plan, prepared.setup
    with run.part("build"):
        model = make_model(plan, prepared.network, setup, xla, run.decide)
    followed = _Followed(run, prepared, model)
    with run.part("fit"), precision_policy(setup.precision):
        epochs_done = followed.start()
        if plan.initial_weights and not epochs_done:
            with run.clock.during("validation"):
                followed.best.offer(_evaluate_start(model, prepared.validation))
        run.clock.follow(setup.steps.global_batch, lambda: (model.steps_run, model.seconds_waited))
        if epochs_done < plan.epochs and not followed.metrics.is_over(epochs_done):
            try:
                model.fit(
                    prepared.training.start(epochs_done * setup.steps.per_epoch),
                    initial_epoch=epochs_done,
                    epochs=plan.epochs,
                    steps_per_epoch=setup.steps.per_epoch,
                    validation_data=prepared.validation.batches,
                    validation_steps=prepared.validation.steps,
                    shuffle=False,  # the batches are already shuffled
                    verbose=0,
                    callbacks=followed.callbacks,
                )
            finally:
                followed.wait()
    run.timings["first_step"] = followed.metrics.first_call_seconds
    return followed.best


class _Followed:
    """A training with its callbacks, its best state and its checkpoints."""

    def __init__(self, run: Run, prepared: Prepared, model: TrainableModel) -> None:
        plan, settings, steps = run.plan, run.plan.settings, prepared.setup.steps
        objective, plateau = Objective(settings.objective), plan_plateau(plan)
        self._run, self._timed = run, partial(run.part, "checkpoint")
        self._folder = Path(plan.directory) / CHECKPOINTS
        self._writer = saving.CheckpointWriter(self._folder, run.decide)
        self._identity = saving.identify_training(plan, steps)
        self.best = callbacks.Best(prepared.network, objective)
        self.metrics = callbacks.EpochMetrics(steps.global_batch, self._record, self.best, plan.patience, objective)

        def find_layer(step: int) -> str:
            return find_bad_layer(prepared.network, prepared.training.batch(step)[0])

        go_back = GoBack(settings.nan_patience, settings.nan_retries, find_layer, run.decide)
        parts: dict[str, saving.Part] = {"best": self.best, "figures": self.metrics, "go_back": go_back, "epochs": run}
        self._state = saving.TrainingState(model, prepared.network, parts | ({"plateau": plateau} if plateau else {}))
        self.callbacks = [self.metrics, callbacks.PartsOfFit(run.clock), go_back, *_watchers(run)]
        self.callbacks.append(callbacks.SpareMemory(settings.memory_threshold))
        if plateau:
            self.callbacks.append(callbacks.LowerRate(plateau, self.metrics))
        if plan.profiled:
            self.callbacks.append(callbacks.StepProfile(Path(plan.directory) / PROFILE_FOLDER))
        if settings.ema_momentum:  # behind all that may bring weights back
            self.callbacks.append(callbacks.AveragedWeights())
        if settings.checkpoint_epochs:
            take = partial(self._state.take, identity=self._identity)
            every = settings.checkpoint_epochs
            self.callbacks.append(saving.Checkpoints(self._writer, take, every, self.metrics, self._timed))

    def start(self) -> int:
        """Resume from a checkpoint or start anew; return how many epochs are done."""
        if not self._run.plan.resumes:
            keep_only(self._folder, ())
            return 0
        with self._timed():
            return saving.resume_training(self._folder, self._identity, self._state, self._run.decide)

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk."""
        if self._run.plan.settings.checkpoint_epochs:
            with self._timed():
                self._writer.wait()

    def _record(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.wait()  # when an epoch is reported, the checkpoint of the one before exists
        self._run.emit(self._run.add_epoch(epoch, metrics, seconds))


def _watchers(run: Run) -> list[keras.callbacks.Callback]:
    return [callbacks.StopOrder(run.should_stop), callbacks.SignsOfLife(run.sign)]


def _evaluate_start(model: TrainableModel, validation: Evaluation) -> dict[str, float]:
    """Return the validation metrics of the initial weights, which are a candidate for the best."""
    model.evaluate(validation.batches, steps=validation.steps, verbose=0)
    metrics = model.read_metrics()
    if not math.isfinite(metrics["loss"]):
        raise NonFiniteError(f"the validation loss of the initial weights is {metrics['loss']}")
    return {f"val_{name}": value for name, value in metrics.items()}


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
        model.evaluate(
            test.batches, steps=test.steps, verbose=0, callbacks=[*_watchers(run), callbacks.PartsOfFit(run.clock)]
        )
    metrics = {f"test_{name}": value for name, value in model.read_metrics().items()}
    if not math.isfinite(metrics["test_loss"]):
        raise NonFiniteError(f"the test loss is {metrics['test_loss']}")
    value = metrics[plan.settings.objective.replace("val_", "test_")]
    return run.result(Outcome.COMPLETED, value, metrics=metrics, weights=plan.initial_weights)
