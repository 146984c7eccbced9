"""Tells by a run's first trials that its others will fail too: none has made an epoch, and all failed alike."""

import re

from mloptimizer.core.nouns import Failure, FailureKind

FIRST_TRIALS = 3

# Other trials may need less memory or time, or not diverge; machines and disks come back.
_MAY_PASS = {
    FailureKind.OUT_OF_MEMORY,
    FailureKind.TIME_LIMIT,
    FailureKind.NON_FINITE,
    FailureKind.LOST_WORKER,
    FailureKind.DISK_FULL,
}
_ALIKE_WHATEVER_THEY_SAY = {FailureKind.CRASH, FailureKind.HUNG}
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\S*\d\S*""")  # what is quoted, and what has a number in it
_FRAME = re.compile(r'File "(.+)", line (\d+)')


class FailingStart:
    """Judges the trials of one run in the order in which they end."""

    def __init__(self) -> None:
        self._failures: list[Failure] | None = []  # None: a trial ended otherwise, so others may

    def judge(self, failure: Failure | None, epochs: int) -> bool:
        """Take how a trial ended; return whether it is the last of the first three, and all of them failed alike.

        Args:
            epochs: that the trial had made.
        """
        if self._failures is None:
            return False
        if failure is None or epochs or failure.kind in _MAY_PASS:
            self._failures = None
            return False
        self._failures.append(failure)
        if not _are_alike(self._failures[0], failure):
            self._failures = None
        return self._failures is not None and len(self._failures) == FIRST_TRIALS


def _are_alike(one: Failure, other: Failure) -> bool:
    """Whether they have one cause: the same words but for names and numbers, or raised at the same place."""
    if one.kind is not other.kind:
        return False
    if one.kind in _ALIKE_WHATEVER_THEY_SAY or _VARIES.sub("", one.message) == _VARIES.sub("", other.message):
        return True
    frames = _FRAME.findall(one.traceback)
    return bool(frames) and frames == _FRAME.findall(other.traceback)
