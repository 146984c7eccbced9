"""Says what an error of Ray means for a trial, by one table."""

import ray.exceptions as errors

from mloptimizer.core.nouns import FailureKind
from mloptimizer.core.words import in_a_line

# In this order: the first class that fits counts.
_KINDS: tuple[tuple[type[BaseException], FailureKind, str], ...] = (
    (errors.OutOfMemoryError, FailureKind.OUT_OF_MEMORY, "the node's memory was used up, and Ray ended the worker"),
    (errors.NodeDiedError, FailureKind.LOST_WORKER, "its node is gone"),
    (errors.ActorUnavailableError, FailureKind.LOST_WORKER, "its worker cannot be reached"),
    (errors.RayActorError, FailureKind.LOST_WORKER, "its worker is gone"),
    (errors.WorkerCrashedError, FailureKind.LOST_WORKER, "its worker is gone"),
    (errors.ObjectLostError, FailureKind.LOST_WORKER, "what its worker sent was lost on the way"),
    (errors.OutOfDiskError, FailureKind.DISK_FULL, "the node's disk is full"),
    (errors.ObjectStoreFullError, FailureKind.DISK_FULL, "the object store of Ray is full"),
    (errors.RayTaskError, FailureKind.CRASH, "its worker met an error"),
    (errors.RayError, FailureKind.LOST_WORKER, "Ray lost its worker"),
)


def explain(error: errors.RayError) -> tuple[FailureKind, str]:
    """Return the kind of the failure, and one line that says why; a lost node is not the trial's fault."""
    for kind_of_error, kind, words in _KINDS:
        if isinstance(error, kind_of_error):
            return kind, f"{words} ({_shorten(error)})"
    raise error


def _shorten(error: errors.RayError) -> str:
    cause = error.cause if isinstance(error, errors.RayTaskError) else error
    return f"{type(cause).__name__}: {in_a_line(cause)}"[:200]
