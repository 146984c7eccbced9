"""Keeps the writers of a journal file of Optuna apart, and mends what a kill or a full disk left behind in it.

A mended line keeps its length, so programs that have the file open read on. Nobody waits for a dead process's lock.
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
START = b'{"op_code":'  # of every record; never inside a text of one, where quotes are escaped
_POLL_SECONDS = 0.001  # one writing takes milliseconds
_STALE_SECONDS = 30  # Optuna's own limit for a lock that is not released


class JournalLock:
    """Keeps the writers of a journal apart, and heals the journal's unfinished records before each writing.

    The operating system releases the lock of a process that dies, so a kill never makes the next writer wait. The side
    file is not the one of Optuna's own locks: a dashboard that writes with those needs no exclusion from our
    writing (each appends its lines in one system call), only from our cutting, which therefore takes its lock too.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._side = journal.with_name(journal.name + ".flock")
        self._descriptor = -1
        self.whole_bytes = 0  # up to here no line needs mending
        self.is_ours = False  # the unfinished record: the disk became full, which the person has been told

    def acquire(self) -> bool:
        descriptor = os.open(self._side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            lock_descriptor(descriptor, poll_interval=_POLL_SECONDS)
            self.whole_bytes, is_whole = _mend_joined_lines(self._journal, self.whole_bytes)
            if not is_whole:
                _cut_torn_line(self._journal, warn=not self.is_ours)
        except OSError as error:
            os.close(descriptor)
            raise lock_error(error) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def _is_torn(journal: Path) -> bool:
    with journal.open("rb") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
        return file.read(1) not in (b"", b"\n")


def _cut_torn_line(journal: Path, warn: bool) -> None:
    release_stale_lock(journal)
    optunas = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    lock = optunas(str(journal), grace_period=_STALE_SECONDS)
    lock.acquire()
    try:
        if _is_torn(journal):  # no longer, where the dashboard was in the middle of writing
            with journal.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
            if warn:
                _logger.warning("%s: a torn last line was cut off", journal)
    finally:
        lock.release()


def release_stale_lock(journal: Path) -> None:
    """Remove the lock that a killed dashboard left: Optuna waits for as long as the journal grows, maybe for ever."""
    lock = journal.with_name(journal.name + ".lock")
    with suppress(FileNotFoundError):
        if time.time() - lock.lstat().st_mtime > _STALE_SECONDS:  # one writing takes milliseconds
            lock.unlink()
            _logger.warning("%s: the lock of a program that died was removed", journal)


def _mend_joined_lines(journal: Path, start: int) -> tuple[int, bool]:
    """Blank out the unfinished records from this offset on that other records stand behind, on the same line.

    Other programs may append meanwhile; a whole line is never written to again.

    Returns:
        The offset up to which no line needs mending, in bytes, and whether this is the end of the file: otherwise its
        last line is torn, or a dashboard is in the middle of writing it.
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
                    writable.write(b" " * prefix_bytes)  # JSON allows them in front
                _logger.warning("%s: an unfinished record in front of another one was blanked out", journal)
            start += len(line)
    return start, True


def has_joined_line(journal: Path) -> bool:
    """Return whether an unfinished record is to be blanked out."""
    with journal.open("rb") as file:
        return any(_measure_torn_prefix(line) for line in file)


def _measure_torn_prefix(line: bytes) -> int:
    """Return how many bytes stand in front of the line's last whole record; 0 where the line is not to be mended."""
    at = line.rfind(START)
    if at <= 0 or is_json(line):  # a value may be {"op_code": …} itself
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
