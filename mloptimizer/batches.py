"""Plans how many images a step, a replica and a micro-batch have; the driver and the workers plan alike."""

import math
from dataclasses import dataclass

from mloptimizer.errors import UsageError
from mloptimizer.settings import Settings

REFERENCE_BATCH = 64  # global batch that the learning rates of the search spaces are for
MULTIPLIER_WITH_SEVERAL_GPUS = 2
FEWEST_STEPS = 20  # an automatic batch leaves an epoch at least so many: fewer updates teach less than they save


@dataclass(frozen=True)
class BatchPlan:
    """How a step is divided: over the replicas, and on each into micro-batches that run one after the other."""

    global_batch: int  # images per step
    replicas: int
    accumulation_steps: int
    wanted: int  # the global batch that the settings ask for, before it was fitted to the data

    @property
    def micro_batch(self) -> int:
        """Images per replica and pass."""
        return self.global_batch // self.replicas // self.accumulation_steps


def plan_batch(
    settings: Settings, images: int, replicas: int, accumulation_steps: int = 1, per_replica: int | None = None
) -> BatchPlan:
    """Return the division of a step: `batch_size` × multiplier images per replica, but never more than there are.

    Args:
        images: in the training split.
        accumulation_steps: at least so many micro-batches; the next number that divides a replica's images is taken,
            so that the global batch stays what it is.
        per_replica: measured images per replica, multiplier included, where `batch_size` is auto.

    Raises:
        UsageError: there are fewer training images than replicas.
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
    asked = accumulation_steps
    if settings.accumulation_steps != "auto":
        asked = max(asked, settings.accumulation_steps)
    parts = next(parts for parts in range(min(asked, mine), mine + 1) if mine % parts == 0)
    return BatchPlan(mine * replicas, replicas, parts, wanted * replicas)


def largest_automatic_batch(images: int, replicas: int) -> int:
    """Return the most images per replica that an automatic batch may have, a power of two."""
    return 2 ** max(3, math.floor(math.log2(max(images // replicas // FEWEST_STEPS, 1))))


def fewer_at_once(batch: BatchPlan, min_micro_batch: int) -> int | None:
    """Return the accumulation steps that at least halve the micro-batch, or None if that would be below the least."""
    mine = batch.global_batch // batch.replicas
    for parts in range(2 * batch.accumulation_steps, mine + 1):
        if mine % parts == 0:
            return parts if mine // parts >= min_micro_batch else None
    return None
