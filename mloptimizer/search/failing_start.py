"""Recognizes from a run's first trials that all others will fail too: none made an epoch, and all failed alike."""

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
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\S*\d\S*""")  # quoted text, and words with digits
_FRAME = re.compile(r'File "(.+)", line (\d+)')


class FailingStart:
    """Judges the trials of one run in the order in which they end."""

    def __init__(self) -> None:
        self._failures: list[Failure] | None = []  # None: a trial ended differently, so others may too

    def judge(self, failure: Failure | None, epochs: int) -> bool:
        """Note a trial that ended after so many epochs; return whether it is the third, and all failed alike."""
        if self._failures is None or failure is None or epochs:
            self._failures = None
            return False
        self._failures.append(failure)
        if not _share_a_lasting_cause(self._failures[0], failure):
            self._failures = None
            return False
        return len(self._failures) == FIRST_TRIALS


def _share_a_lasting_cause(one: Failure, other: Failure) -> bool:
    """Return whether they have the same text except for names and numbers, or the same traceback."""
    if one.kind is not other.kind or one.kind in _MAY_PASS:
        return False
    if one.kind in _ALIKE_WHATEVER_THEY_SAY or _VARIES.sub("", one.message) == _VARIES.sub("", other.message):
        return True
    frames = _FRAME.findall(one.traceback)
    return bool(frames) and frames == _FRAME.findall(other.traceback)
