"""Translates an error of Ray into the failure of a trial, by one table."""

import ray.exceptions as errors

from mloptimizer.core.nouns import FailureKind
from mloptimizer.core.words import in_a_line

# The first matching class applies.
_KINDS: tuple[tuple[type[BaseException], FailureKind, str], ...] = (
    (errors.OutOfMemoryError, FailureKind.OUT_OF_MEMORY, "the node ran out of memory, and Ray ended the worker"),
    (errors.NodeDiedError, FailureKind.LOST_WORKER, "its node is gone"),
    (errors.ActorUnavailableError, FailureKind.LOST_WORKER, "its worker cannot be reached"),
    (errors.RayActorError, FailureKind.LOST_WORKER, "its worker is gone"),
    (errors.WorkerCrashedError, FailureKind.LOST_WORKER, "its worker is gone"),
    (errors.ObjectLostError, FailureKind.LOST_WORKER, "data from its worker was lost in transit"),
    (errors.OutOfDiskError, FailureKind.DISK_FULL, "the node's disk is full"),
    (errors.ObjectStoreFullError, FailureKind.DISK_FULL, "the object store of Ray is full"),
    (errors.RayTaskError, FailureKind.CRASH, "its worker raised an error"),
    (errors.RayError, FailureKind.LOST_WORKER, "Ray lost its worker"),
)


def explain(error: errors.RayError) -> tuple[FailureKind, str]:
    """Return the kind of the failure, and its reason in one line; a lost node is not the trial's fault."""
    kind, reason = next((kind, reason) for error_class, kind, reason in _KINDS if isinstance(error, error_class))
    cause = error.cause if isinstance(error, errors.RayTaskError) else error
    return kind, f"{reason} ({f'{type(cause).__name__}: {in_a_line(cause)}'[:200]})"
