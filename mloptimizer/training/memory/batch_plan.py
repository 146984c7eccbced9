"""Plans the batch sizes of a step, a replica and a micro-batch, for the driver and the workers alike."""

import math
from dataclasses import dataclass

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError

REFERENCE_BATCH = 64  # global batch size for which search spaces choose learning rates
MULTIPLIER_WITH_SEVERAL_GPUS = 2
MOST_PARTS_OF_ASKED = 2  # to divide a step evenly, there may be this many times the micro-batches asked for
ROUNDED_PART = 16  # rounding a batch that is limited by the data drops at most one image in 16
FEWEST_STEPS = 20  # of an epoch with an automatic batch size: fewer updates cost more accuracy than they save time


@dataclass(frozen=True)
class BatchPlan:
    """How a step is divided among the replicas, and on each into micro-batches that run one after the other."""

    global_batch: int  # images per step
    replicas: int
    accumulation_steps: int
    wanted: int  # the global batch size of the settings, before it was limited by the data

    @property
    def micro_batch(self) -> int:
        """Images per replica and pass."""
        return self.global_batch // self.replicas // self.accumulation_steps


def plan_batch(
    settings: Settings, images: int, replicas: int, accumulation_steps: int = 1, per_replica: int | None = None
) -> BatchPlan:
    """Return a step of `batch_size` × multiplier images per replica, or of all images if there are fewer.

    If their number then divides badly (a prime, say), it is rounded down, in the same way for any `accumulation_steps`,
    so that all attempts of a trial have the same global batch.

    Args:
        images: in the training split.
        accumulation_steps: the least number of micro-batches; the next one that divides a replica's images is taken.
        per_replica: measured images per replica, multiplier included, if `batch_size` is auto.

    Raises:
        UsageError: there are fewer training images than replicas, or the batch size set cannot be divided into about as
            many micro-batches as are set.
    """
    multiplier = settings.batch_size_multiplier
    if multiplier == "auto":
        multiplier = MULTIPLIER_WITH_SEVERAL_GPUS if replicas > 1 else 1
    base = REFERENCE_BATCH if settings.batch_size == "auto" else settings.batch_size
    wanted = per_replica or base * multiplier
    mine = min(wanted, images // replicas)
    if mine == 0:
        raise UsageError(
            f"{images} training images are too few for {replicas} replicas. Possible: at most {images} replicas."
        )
    stated = settings.accumulation_steps if settings.accumulation_steps != "auto" else 1
    if mine < wanted and (_is_awkward(mine, stated) or _is_awkward(mine, 2 * stated)):
        mine = _round_down(mine, stated)
    elif mine == wanted and _is_awkward(mine, stated):
        raise UsageError(_explain_division(base, mine, stated))
    return BatchPlan(mine * replicas, replicas, _divide(mine, max(accumulation_steps, stated)), wanted * replicas)


def _divide(images: int, asked: int) -> int:
    """Return the least possible number of equal parts that is at least `asked`, or parts of one image."""
    return next(parts for parts in range(min(asked, images), images + 1) if images % parts == 0)


def _is_awkward(images: int, asked: int) -> bool:
    """Whether the images divide only into far more, and far smaller, parts than asked for."""
    return _divide(images, asked) > MOST_PARTS_OF_ASKED * asked


def _round_down(images: int, stated: int) -> int:
    """Round down to a multiple of the stated parts times a power of two; see `ROUNDED_PART`."""
    unit = stated
    while 2 * unit * ROUNDED_PART <= images:
        unit *= 2
    return images - images % unit if unit <= images else images


def _explain_division(batch_size: int, images: int, stated: int) -> str:
    parts, below = _divide(images, stated), batch_size - batch_size % stated
    possible = " or ".join(str(size) for size in (below, below + stated) if size)
    return (
        f"accumulation_steps = {stated}: does not divide the {images} images per GPU and step; {parts} micro-batches "
        f"of {images // parts} would. Possible: batch_size = {possible}."
    )


def largest_automatic_batch(images: int, replicas: int) -> int:
    """Return the largest automatic batch size per replica, a power of two."""
    return 2 ** max(3, math.floor(math.log2(max(images // replicas // FEWEST_STEPS, 1))))


def fewer_at_once(batch: BatchPlan, min_micro_batch: int) -> int | None:
    """Return the accumulation steps that at least halve the micro-batch; None if it would get too small."""
    mine = batch.global_batch // batch.replicas
    parts = next((parts for parts in range(2 * batch.accumulation_steps, mine + 1) if mine % parts == 0), None)
    return parts if parts and mine // parts >= min_micro_batch else None
