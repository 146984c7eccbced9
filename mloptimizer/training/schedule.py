"""Plans the steps of a training: the global batch, and the learning rate of every step."""

from dataclasses import dataclass
from typing import Any

import keras

from mloptimizer.errors import RunError
from mloptimizer.records import Params, TrialPlan
from mloptimizer.training.devices import Decide
from mloptimizer.training.optimizers import LEARNING_RATE


@dataclass(frozen=True)
class Steps:
    """How the training images are cut into steps."""

    global_batch: int  # images per step, over all replicas
    per_epoch: int
    total: int
    learning_rate_scale: float  # global batch / batch_size


def plan_steps(plan: TrialPlan, replicas: int, decide: Decide) -> Steps:
    """Return the steps: `batch_size` × multiplier × replicas images each, but never more than there are.

    The learning rate grows in proportion (Goyal et al. 2017, section 2.1).

    Raises:
        RunError: there are fewer training images than replicas.
    """
    settings, images = plan.settings, plan.dataset.train_size
    multiplier = settings.batch_size_multiplier
    if multiplier == "auto":
        multiplier = 2 if replicas > 1 else 1
    wanted = settings.batch_size * multiplier * replicas
    batch = min(wanted, images // replicas * replicas)
    if batch == 0:
        raise RunError(f"data set {plan.dataset.name}: {images} training images are too few for {replicas} replicas.")
    reason = f"batch_size {settings.batch_size} × multiplier {multiplier} × {replicas} replicas"
    decide("global batch", str(batch), reason if batch == wanted else f"{reason} = {wanted}, but only {images} images")
    scale = batch / settings.batch_size
    decide("learning-rate scale", f"{scale:g}", f"global batch {batch} / batch_size {settings.batch_size}")
    per_epoch = images // batch
    return Steps(batch, per_epoch, per_epoch * plan.epochs, scale)


def learning_rate_schedule(peak: float, total_steps: int, warmup_steps: int) -> Any:
    """Return the learning rate by step: linear to `peak` over the warm-up, then half a cosine to 0 at `total_steps`.

    The cosine is equation 5 of Loshchilov and Hutter 2017, without restarts.
    """
    if warmup_steps < 1:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / warmup_steps, total_steps - warmup_steps, warmup_target=peak, warmup_steps=warmup_steps
    )


def plan_learning_rate(params: Params, plan: TrialPlan, steps: Steps) -> Any:
    """Return the schedule of the plan's `learning_rate` (default 1e-3), scaled with the global batch."""
    peak = float(params.get("learning_rate", LEARNING_RATE)) * steps.learning_rate_scale
    warmup_epochs = min(plan.settings.warmup_epochs, plan.epochs / 3)
    return learning_rate_schedule(peak, steps.total, round(warmup_epochs * steps.per_epoch))
