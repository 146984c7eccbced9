"""Plans the steps of a training and the learning rate of each."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.core.nouns import Objective, TrialPlan
from mloptimizer.training.checkpoints.checkpoint_files import PartState
from mloptimizer.training.devices import Decide
from mloptimizer.training.memory.batch_plan import REFERENCE_BATCH, BatchPlan
from mloptimizer.training.step.optimizers import LEARNING_RATE

ONE_CYCLE_RISE = 0.3  # share of the steps
PLATEAU_FACTOR = 0.5


@dataclass(frozen=True)
class Steps:
    """How the training images are divided into steps."""

    global_batch: int  # images per step, over all replicas
    per_epoch: int
    total: int
    learning_rate_scale: float


def plan_steps(plan: TrialPlan, batch: BatchPlan, decide: Decide) -> Steps:
    """Return the steps of the plan's epochs; `plan.steps_per_epoch` limits the steps of each."""
    settings, images = plan.settings, plan.dataset.train_size
    reason = f"{batch.wanted // batch.replicas} images per replica × {batch.replicas} replicas"
    if settings.batch_size != "auto":
        multiplier = batch.wanted // batch.replicas // settings.batch_size
        reason = f"batch_size {settings.batch_size} × multiplier {multiplier} × {batch.replicas} replicas"
    if batch.global_batch != batch.wanted:
        reason = f"{reason} = {batch.wanted}, but only {images} images"
    decide("global batch", str(batch.global_batch), reason)
    if batch.accumulation_steps > 1:
        reason = f"{batch.accumulation_steps} micro-batches of {batch.micro_batch} images × {batch.replicas} replicas"
        decide("accumulation", str(batch.accumulation_steps), reason)
    name = choose_schedule(plan)
    reason = "the search space's parameter" if "schedule" in plan.params else "setting"
    if name == "one_cycle":
        reason += "; it rises by itself, so warmup_epochs is not used"
    decide("schedule", name, reason)
    per_epoch = images // batch.global_batch
    if plan.steps_per_epoch:
        per_epoch = min(per_epoch, plan.steps_per_epoch)
    return Steps(batch.global_batch, per_epoch, per_epoch * plan.epochs, _scale(plan, batch, decide))


def _scale(plan: TrialPlan, batch: BatchPlan, decide: Decide) -> float:
    """Return how the learning rate grows with the global batch.

    linear: Goyal et al. 2017, section 2.1. sqrt: Hoffer et al. 2017, and for Adam Malladi et al. 2022.
    """
    settings = plan.settings
    base = REFERENCE_BATCH if settings.batch_size == "auto" else settings.batch_size
    ratio = batch.global_batch / base
    scale = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[settings.learning_rate_scaling]
    reason = f"{settings.learning_rate_scaling} in global batch {batch.global_batch} / batch_size {base}"
    decide("learning-rate scale", f"{scale:g}", "learning_rate_scaling none" if scale == 1 != ratio else reason)
    return scale


def choose_schedule(plan: TrialPlan) -> str:
    """Return the name of the schedule: the space's checked parameter, otherwise the setting."""
    return str(plan.params.get("schedule", plan.settings.schedule))


def plan_learning_rate(plan: TrialPlan, steps: Steps) -> Any:
    """Return the schedule of the plan's `learning_rate`, scaled with the global batch.

    Call it in the scope of the strategy.
    """
    peak = float(plan.params.get("learning_rate", LEARNING_RATE)) * steps.learning_rate_scale
    warmup_steps = round(_warmup_epochs(plan) * steps.per_epoch)
    return PeakRate(learning_rate_schedule(choose_schedule(plan), 1.0, steps.total, warmup_steps), peak)


def _warmup_epochs(plan: TrialPlan) -> float:
    return min(plan.settings.warmup_epochs, plan.epochs / 3)


def learning_rate_schedule(name: str, peak: float, total_steps: int, warmup_steps: int) -> Any:
    """Return the learning rate by step, counted from 0; all but one_cycle rise linearly to `peak` during the warm-up.

    cosine: then half a cosine to 0 at `total_steps` (equation 5 of Loshchilov and Hutter 2017, without restarts).
    one_cycle: linearly from peak / 25 to the peak over 30 % of the steps, then half a cosine to peak / 10,000 (Smith
    and Topin 2019; constant momentum). step: a tenth after half of the steps, a hundredth after three quarters (He et
    al. 2016, section 4.2). plateau: constant, and lowered by `Plateau`.
    """
    if name == "one_cycle":
        return _rise_and_cosine(peak, peak / 25, total_steps, round(ONE_CYCLE_RISE * total_steps), 1e-4)
    if name == "cosine":
        return _rise_and_cosine(peak, peak / max(warmup_steps, 1), total_steps, warmup_steps, 0.0)
    falls = (math.ceil(0.5 * total_steps), math.ceil(0.75 * total_steps)) if name == "step" else ()
    return Staircase(peak, warmup_steps, falls)


def _rise_and_cosine(peak: float, start: float, total_steps: int, rise_steps: int, end: float) -> Any:
    """Return Keras's own schedule; `end` is a share of the peak."""
    if rise_steps < 1:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps, alpha=end)
    rest = total_steps - rise_steps
    return keras.optimizers.schedules.CosineDecay(start, rest, end, warmup_target=peak, warmup_steps=rise_steps)


class PeakRate(keras.optimizers.schedules.LearningRateSchedule):
    """A course with the maximum 1, times the peak: a variable, so that trials share XLA's compiled code."""

    def __init__(self, course: Any, peak: float) -> None:
        self._course = course
        self._peak = tf.Variable(peak, trainable=False, name="peak_learning_rate")

    def __call__(self, step: Any) -> Any:
        return tf.cast(self._course(step), tf.float32) * tf.identity(self._peak)


class Staircase(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise, as in Keras's cosine, then the peak, and a division by ten at every fall."""

    def __init__(self, peak: float, warmup_steps: int, falls: tuple[int, ...]) -> None:
        self.peak, self.warmup_steps, self.falls = peak, warmup_steps, falls

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        start = 1 / max(self.warmup_steps, 1)
        rise = tf.minimum(1.0, start + (1 - start) * step / max(self.warmup_steps, 1))
        fallen = sum((tf.cast(step >= fall, tf.float32) for fall in self.falls), tf.zeros(()))
        return self.peak * rise * 0.1**fallen


class Plateau:
    """Halves the learning rate after `epochs` epochs without a better value; those of the warm-up do not count."""

    def __init__(self, objective: Objective, epochs: int, warmup_epochs: float = 0.0) -> None:
        self._objective, self._epochs = objective, epochs
        self._unheeded = math.ceil(warmup_epochs)
        self._best: float | None = None
        self._since = 0

    def update(self, value: float) -> float | None:
        """Take the value of the last epoch; return the factor for the rate, or None if it stays."""
        if self._objective.is_better(value, self._best):
            self._best, self._since = value, 0
        elif self._unheeded <= 0:
            self._since += 1
        self._unheeded -= 1
        if self._since < self._epochs:
            return None
        self._since = 0
        return PLATEAU_FACTOR

    def get_state(self) -> PartState:
        return {"best": self._best, "since": self._since, "unheeded": self._unheeded}, ()

    def set_state(self, state: PartState) -> None:
        self._best, self._since, self._unheeded = (state[0][name] for name in ("best", "since", "unheeded"))


def plan_plateau(plan: TrialPlan) -> Plateau | None:
    """Return the plateau rule, with half of the plan's patience; None with another schedule."""
    if choose_schedule(plan) != "plateau":
        return None
    return Plateau(Objective(plan.settings.objective), max(1, plan.patience // 2), _warmup_epochs(plan))
