"""Locks an Optuna journal file for writing, and repairs it after a kill or a full disk.

A repaired line keeps its length, so other programs can continue reading the open file.
"""

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import lock_descriptor
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock

from mloptimizer.core.locks import lock_error

_logger = logging.getLogger(__name__)
START = b'{"op_code":'  # of every record; it cannot occur in a string, where quotes are escaped
_POLL_SECONDS = 0.001  # a write takes milliseconds
_STALE_SECONDS = 30  # Optuna's own limit for a lock that is not released


class JournalLock:
    """Excludes our other writers, and repairs unfinished records before each write.

    The operating system releases the lock of a process that dies, so a kill never makes the next writer wait. The lock
    file is not that of Optuna's own locks: a dashboard that uses those may write at the same time as we (each appends
    its lines in one system call), but not while we cut a line off, so for that we acquire its lock, too.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._side = journal.with_name(journal.name + ".flock")
        self._descriptor = -1
        self.whole_bytes = 0  # up to here no line needs repair
        self.is_ours = False  # the unfinished record: the disk became full, and the person knows

    def acquire(self) -> bool:
        descriptor = os.open(self._side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            lock_descriptor(descriptor, poll_interval=_POLL_SECONDS)
            self.whole_bytes, is_whole = _repair_joined_lines(self._journal, self.whole_bytes)
            if not is_whole:
                _cut_torn_line(self._journal, warn=not self.is_ours)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise lock_error(error) from error
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def _cut_torn_line(journal: Path, warn: bool) -> None:
    release_stale_lock(journal)
    optunas = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    lock = optunas(str(journal), grace_period=_STALE_SECONDS)
    lock.acquire()
    try:
        with journal.open("r+b") as file:
            whole_bytes = file.read().rfind(b"\n") + 1
            if file.tell() > whole_bytes:  # else a dashboard has completed the line
                file.truncate(whole_bytes)
                if warn:
                    _logger.warning("%s: an unfinished last line was cut off", journal)
    finally:
        lock.release()


def release_stale_lock(journal: Path) -> None:
    """Remove the lock of a killed dashboard: Optuna would wait as long as the journal grows, maybe forever."""
    lock = journal.with_name(journal.name + ".lock")
    with suppress(FileNotFoundError):
        if time.time() - lock.lstat().st_mtime > _STALE_SECONDS:
            lock.unlink()
            _logger.warning("%s: the lock of a program that died was removed", journal)


def _repair_joined_lines(journal: Path, start: int) -> tuple[int, bool]:
    """Replace unfinished records by spaces if another record follows on the same line, from this offset on.

    Other programs may append at the same time, but nobody writes to a complete line.

    Returns:
        The offset in bytes up to which no line needs repair, and whether it is the end of the file: if not, the last
        line is unfinished, or a dashboard is still writing it.
    """
    with journal.open("rb") as file:
        if file.seek(0, os.SEEK_END) < start:  # the file was replaced by a copy
            start = 0
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return start, False
            if prefix_bytes := _measure_torn_prefix(line):
                with journal.open("r+b") as writable:
                    writable.seek(start)
                    writable.write(b" " * prefix_bytes)  # JSON allows leading spaces
                _logger.warning("%s: an unfinished record before another one was replaced by spaces", journal)
            start += len(line)
    return start, True


def has_joined_line(journal: Path) -> bool:
    """Return whether another record follows an unfinished one on the same line."""
    with journal.open("rb") as file:
        return any(_measure_torn_prefix(line) for line in file)


def _measure_torn_prefix(line: bytes) -> int:
    """Return how many bytes precede the last complete record of the line; 0 if the line needs no repair."""
    at = line.rfind(START)
    if at <= 0 or is_json(line):  # a value may be {"op_code": …}
        return 0
    while at > 0 and not is_json(line[at:]):
        at = line.rfind(START, 0, at)
    return max(at, 0)


def is_json(line: bytes) -> bool:
    """Return whether the line is JSON."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
