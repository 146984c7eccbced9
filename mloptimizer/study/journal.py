"""Opens a journal file of Optuna, and mends in it what a kill or a full disk left behind.

Guarantees: a record that was acknowledged is never lost, those of a `together` block once that has ended; an unfinished
one is cut off, or blanked out where another program wrote on behind it, before the next reading that it would break and
before the next writing of ours; a mended line keeps its length, so programs that have the file open read on; nobody
waits for the lock of a dead process; what a full disk stopped is written once, when there is space again.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

from mloptimizer.errors import UsageError
from mloptimizer.files import Wait
from mloptimizer.study.patience import Describe, persist

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)
_START = b'{"op_code":'  # of every record; never inside a text of one, where quotes are escaped
_STALE_SECONDS = 30  # Optuna's own limit for a lock that is not released


def open_journal(path: Path, *, read_only: bool = False, wait: Wait | None = None) -> BaseStorage:
    """Return the storage in the journal file, created where it is missing.

    Args:
        path: the journal file.
        read_only: create nothing, and mend nothing but an unfinished record that another program wrote on behind,
            which cannot be read over; a file that is missing is an empty storage.
        wait: called before every further try while the disk is full; None: a full disk is an error.

    Raises:
        UsageError: the file holds something else, or a line of it is damaged beyond mending.
        OSError: the file or its folder cannot be read or written.
    """
    return persist(lambda: _open(path, read_only, wait), wait, _describe_trouble(path))


def _open(path: Path, read_only: bool, wait: Wait | None) -> BaseStorage:
    if not path.exists():
        if read_only:
            return InMemoryStorage()
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        _check_is_journal(path)
    backend = HealingBackend(path, wait)
    if not read_only:
        if fcntl:
            _release_stale_lock(path)
        backend.heal()  # finds out early, too, whether the folder can be written
        os.close(os.open(path, os.O_WRONLY))
    try:
        storage: Any = JournalStorage(cast(Any, backend))
        storage.together = backend.together  # for the function `together` below
        return cast(BaseStorage, storage)
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise UsageError(_describe_damage(path)) from None


def together(storage: BaseStorage) -> AbstractContextManager[None]:
    """Return a context in which a journal's records reach the disk together, at its end; other storages do as always.

    To reach the disk takes longer than all the rest of writing a record. Other programs see each record at once, and a
    kill of this one loses none.
    """
    return cast(AbstractContextManager[None], getattr(storage, "together", nullcontext)())


def _describe_trouble(path: Path) -> Describe:
    return lambda error: f"{path}: {getattr(error, 'strerror', None) or error}"


class HealingBackend:
    """Optuna's journal backend, which outlasts a full disk and mends what keeps the file from being read."""

    def __init__(self, journal: Path, wait: Wait | None) -> None:
        self._path = journal
        self._wait = wait
        # Elsewhere than on POSIX: the lock that the dashboard takes there.
        self._lock = cast(Any, FlockLock(journal) if fcntl else JournalFileOpenLock(str(journal)))
        self._file = JournalFileBackend(str(journal), lock_obj=self._lock)
        self._waits = False  # whether records may reach the disk later

    def heal(self) -> None:
        """Mend the file: what every taking of the lock does."""
        self._lock.acquire()
        self._lock.release()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from this number on.

        Raises:
            UsageError: a line is damaged beyond mending, or may not be mended.
        """
        number = log_number_from
        try:
            for log in self._file.read_logs(number):
                number += 1
                yield log
        except ValueError:
            try:
                if _has_joined_line(self._path):
                    persist(self.heal, self._wait, _describe_trouble(self._path))
                yield from self._file.read_logs(number)
            except (ValueError, OSError):
                raise UsageError(_describe_damage(self._path)) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write the records behind the others; outside of a `together` block they are on the disk on return."""
        start = getattr(self._lock, "whole_bytes", 0)

        def write_once() -> None:
            if not self._has_written(logs, start):
                self._append(logs)

        persist(lambda: self._append(logs), self._wait, _describe_trouble(self._path), write_once)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        try:
            (self._append_soon if self._waits else self._file.append_logs)(logs)
        except OSError:
            with suppress(OSError):
                self.heal()  # nothing half-written stays while the disk is full
            raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, let records reach the disk at its end."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            persist(self._sync, self._wait, _describe_trouble(self._path))

    def _append_soon(self, logs: list[dict[str, Any]]) -> None:
        self._lock.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(_records(logs)))
        finally:
            self._lock.release()

    def _sync(self) -> None:
        with self._path.open("ab") as file:
            os.fsync(file.fileno())

    def _has_written(self, logs: list[dict[str, Any]], start: int) -> bool:
        """Return whether the records stand in the file behind this offset: their writing may have failed at its end."""
        records = _records(logs)
        with self._path.open("rb") as file:
            file.seek(start)
            found = set(records) <= set(file)
            if found:
                os.fsync(file.fileno())
        return found


def _records(logs: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]


class FlockLock:
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

    def acquire(self) -> bool:
        descriptor = os.open(self._side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_torn(self._journal):
                _cut_torn_line(self._journal)
            self.whole_bytes = _mend_joined_lines(self._journal, self.whole_bytes)
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


def _cut_torn_line(journal: Path) -> None:
    _release_stale_lock(journal)
    lock = JournalFileSymlinkLock(str(journal), grace_period=_STALE_SECONDS)
    lock.acquire()
    try:
        if _is_torn(journal):  # no longer, where the dashboard was in the middle of writing
            with journal.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
            _logger.warning("%s: a torn last line was cut off", journal)
    finally:
        lock.release()


def _release_stale_lock(journal: Path) -> None:
    """Remove the lock that a killed dashboard left: Optuna waits for as long as the journal grows, maybe for ever."""
    lock = journal.with_name(journal.name + ".lock")
    with suppress(FileNotFoundError):
        if time.time() - lock.lstat().st_mtime > _STALE_SECONDS:  # one writing takes milliseconds
            lock.unlink()
            _logger.warning("%s: the lock of a program that died was removed", journal)


def _mend_joined_lines(journal: Path, start: int) -> int:
    """Blank out the unfinished records from this offset on that other records stand behind, on the same line.

    Other programs may append meanwhile; a whole line is never written to again.

    Returns:
        The offset up to which no line needs mending, in bytes.
    """
    with journal.open("rb") as file:
        if file.seek(0, os.SEEK_END) < start:  # the file was replaced by a copy
            start = 0
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # a dashboard is in the middle of writing
                break
            if prefix_bytes := _measure_torn_prefix(line):
                with journal.open("r+b") as writable:
                    writable.seek(start)
                    writable.write(b" " * prefix_bytes)  # JSON allows them in front
                _logger.warning("%s: an unfinished record in front of another one was blanked out", journal)
            start += len(line)
    return start


def _has_joined_line(journal: Path) -> bool:
    with journal.open("rb") as file:
        return any(_measure_torn_prefix(line) for line in file)


def _measure_torn_prefix(line: bytes) -> int:
    """Return how many bytes stand in front of the line's last whole record; 0 where the line is not to be mended."""
    at = line.rfind(_START)
    if at <= 0 or _is_json(line):  # a value may be {"op_code": …} itself
        return 0
    while at > 0 and not _is_json(line[at:]):
        at = line.rfind(_START, 0, at)
    return max(at, 0)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _check_is_journal(path: Path) -> None:
    with path.open("rb") as file:
        start = b""
        while not start and (block := file.read(4096)):
            start = block.lstrip(b" ")  # of a first line that was mended
    if start.startswith(b"SQLite format 3"):
        raise UsageError(f"{path}: is a SQLite database. Write sqlite:///{path} to use it.")
    at = start.find(_START)
    if not _START.startswith(start if at < 0 else start[:at]):
        raise UsageError(f"{path}: is not a journal of Optuna. Choose another file, or one that does not exist yet.")


def _describe_damage(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_json(line):
                return f"{path}, line {number}: is damaged. Restore a copy of the file, or remove that line."
    return f"{path}: holds lines that are not Optuna's. Restore a copy of the file, or remove it."
