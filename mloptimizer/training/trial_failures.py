"""Turns the exceptions of training, a search space or the machine into a `Failure`, by one table.

The exceptions of this module name the stage; their cause is the original.
"""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from mloptimizer.core.nouns import Failure, FailureKind
from mloptimizer.core.system_errors import DISK_FULL

LONGEST_MESSAGE = 400


class SpaceError(Exception):
    """The search space's text or its `build` is at fault."""


class DataError(Exception):
    """The images could not be read."""


class NonFiniteError(Exception):
    """The loss became NaN or infinite."""


class TrialStopped(Exception):  # noqa: N818  (an order, not an error)
    """The trial was asked to stop."""


_KINDS: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (MemoryError, FailureKind.OUT_OF_MEMORY),
    (tf.errors.ResourceExhaustedError, FailureKind.OUT_OF_MEMORY),
    (NonFiniteError, FailureKind.NON_FINITE),
    (SpaceError, FailureKind.SPACE_ERROR),
    (DataError, FailureKind.DATA_ERROR),
    (KeyboardInterrupt, FailureKind.INTERRUPTED),
    (SystemExit, FailureKind.INTERRUPTED),
)
# CUDA libraries report exhausted memory as internal errors.
_OUT_OF_MEMORY_WORDS = (
    *("CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED", "failed to allocate memory", "OOM when allocating"),
    *("Dst tensor is not initialized", "bad_alloc"),
)
# TensorFlow says in many lines where the operation was made, and the error comes last.
_WHERE = re.compile(r'Graph execution error|Detected at node|File "|Node: |\d+ root error|\[\[\{\{node|Stack trace')
_NOT_FINITE_WORDS = "Detected Infinity or NaN"  # of tf.debugging.enable_check_numerics


def describe_failure(error: BaseException) -> Failure:
    """Return the failure of the exception: its kind, one line, and the traceback of its origin.

    Exhausted memory and a full disk count wherever they occur, even in a search space's `build`.
    """
    origin = error.__cause__ if isinstance(error, (SpaceError, DataError)) and error.__cause__ else error
    story = "".join(traceback.format_exception(origin))
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in DISK_FULL:
            place, reason = link.filename, link.strerror or str(link)
            message = " ".join((f"{Path(str(place)).name}: {reason}" if place else reason).split())
            return Failure(FailureKind.DISK_FULL, message[:LONGEST_MESSAGE], story)
    return Failure(_find_kind(error), _one_line(error), story)


def _find_kind(error: BaseException) -> FailureKind:
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, tf.errors.OpError) and any(words in str(link) for words in _OUT_OF_MEMORY_WORDS):
            return FailureKind.OUT_OF_MEMORY
        if isinstance(link, tf.errors.InvalidArgumentError) and _NOT_FINITE_WORDS in str(link):
            return FailureKind.NON_FINITE
    found = (kind for kind_of, kind in _KINDS if any(isinstance(link, kind_of) for link in chain))
    return next(found, FailureKind.ERROR)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (line for line in lines if any(words in line for words in (*_OUT_OF_MEMORY_WORDS, _NOT_FINITE_WORDS)))
    causes = (line for line in lines if not _WHERE.match(line))
    text = next(telling, next(causes, lines[0] if lines else ""))
    ours = isinstance(error, (SpaceError, DataError, NonFiniteError))
    line = text if ours and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"
