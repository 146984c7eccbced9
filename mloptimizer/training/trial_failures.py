"""Turns what training, a search space or the machine raised into a `Failure`, by one table.

The exceptions of this module say at which stage something was raised; the cause keeps the original.
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


class TrialStopped(Exception):  # noqa: N818  (an order that was followed, not an error)
    """The trial was asked to end."""


_KINDS: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (MemoryError, FailureKind.OUT_OF_MEMORY),
    (tf.errors.ResourceExhaustedError, FailureKind.OUT_OF_MEMORY),
    (NonFiniteError, FailureKind.NON_FINITE),
    (SpaceError, FailureKind.SPACE_ERROR),
    (DataError, FailureKind.DATA_ERROR),
    (KeyboardInterrupt, FailureKind.INTERRUPTED),
    (SystemExit, FailureKind.INTERRUPTED),
)
# CUDA libraries report exhausted memory as internal errors, in their own words.
_OUT_OF_MEMORY_WORDS = (
    "CUDA_ERROR_OUT_OF_MEMORY",
    "STATUS_ALLOC_FAILED",
    "failed to allocate memory",
    "OOM when allocating",
    "Dst tensor is not initialized",
    "bad_alloc",
)
# Before what went wrong, TensorFlow says where the operation was made, in many lines.
_WHERE = re.compile(r'Graph execution error|Detected at node|File "|Node: |\d+ root error|\[\[\{\{node|Stack trace')
# What tf.debugging.enable_check_numerics says.
_NOT_FINITE_WORDS = "Detected Infinity or NaN"


def describe_failure(error: BaseException) -> Failure:
    """Return the failure that the exception stands for: its kind, one line, and the traceback of its origin.

    Exhausted memory and a full disk count wherever they were met, also inside a search space's `build`.
    """
    origin = error.__cause__ if isinstance(error, (SpaceError, DataError)) and error.__cause__ else error
    story = "".join(traceback.format_exception(origin))
    full = next(filter(_is_full_disk, _chain(error)), None)
    return Failure(_kind(error), _describe_full_disk(full) if full else _one_line(error), story)


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


def _describe_full_disk(error: BaseException) -> str:
    place, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or str(error)
    return " ".join((f"{Path(str(place)).name}: {reason}" if place else reason).split())[:LONGEST_MESSAGE]


def _kind(error: BaseException) -> FailureKind:
    chain = list(_chain(error))
    for link in chain:
        if _is_full_disk(link):
            return FailureKind.DISK_FULL
        if isinstance(link, tf.errors.OpError) and any(words in str(link) for words in _OUT_OF_MEMORY_WORDS):
            return FailureKind.OUT_OF_MEMORY
        if isinstance(link, tf.errors.InvalidArgumentError) and _NOT_FINITE_WORDS in str(link):
            return FailureKind.NON_FINITE
    for kind_of, kind in _KINDS:
        if any(isinstance(link, kind_of) for link in chain):
            return kind
    return FailureKind.ERROR


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
