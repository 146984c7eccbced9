"""Opens a journal file of Optuna, and mends in it what a kill or a full disk left behind.

Guarantees: a record that was acknowledged is never lost, those of a `together` block once that has ended; an unfinished
one is cut off, or blanked out where another program wrote on behind it, before the next reading that it would break and
before the next writing of ours; a mended line keeps its length, so programs that have the file open read on; nobody
waits for the lock of a dead process; what a full disk stopped is written once, when there is space again.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import Wait
from mloptimizer.study.journal_lock import START, JournalLock, has_joined_line, is_json, release_stale_lock
from mloptimizer.study.patience import Describe, persist

_logger = logging.getLogger(__name__)


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
        release_stale_lock(path)
        backend.heal()  # finds out early, too, whether the folder can be written
        os.close(os.open(path, os.O_WRONLY))
    try:
        storage: Any = JournalStorage(cast(Any, backend))
        storage.together = backend.together  # for the function `together` below
        return cast(BaseStorage, storage)
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise UsageError(_describe_damage(path)) from None


def together(storage: BaseStorage, *, syncs: bool = True) -> AbstractContextManager[None]:
    """Return a context in which a journal's records reach the disk together, at its end; other storages do as always.

    To reach the disk takes longer than all the rest of writing a record. Other programs see each record at once, and a
    kill of this one loses none.

    Args:
        syncs: otherwise they reach the disk with the next ones that do; a power failure before that loses them.
    """
    open_block: Callable[[bool], AbstractContextManager[None]] | None = getattr(storage, "together", None)
    return open_block(syncs) if open_block else nullcontext()


def _describe_trouble(path: Path) -> Describe:
    return lambda error: f"{path}: {getattr(error, 'strerror', None) or error}"


class HealingBackend:
    """Optuna's journal backend, which outlasts a full disk and mends what keeps the file from being read."""

    def __init__(self, journal: Path, wait: Wait | None) -> None:
        self._path = journal
        self._wait = wait
        self._lock = JournalLock(journal)
        self._file = JournalFileBackend(str(journal), lock_obj=cast(Any, self._lock))
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
                if has_joined_line(self._path):
                    persist(self.heal, self._wait, _describe_trouble(self._path))
                yield from self._file.read_logs(number)
            except (ValueError, OSError):
                raise UsageError(_describe_damage(self._path)) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write the records behind the others; outside of a `together` block they are on the disk on return."""
        start = self._lock.whole_bytes

        def write_once() -> None:
            if not self._has_written(logs, start):
                self._append(logs)

        persist(lambda: self._append(logs), self._wait, _describe_trouble(self._path), write_once)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        try:
            (self._append_soon if self._waits else self._file.append_logs)(logs)
        except OSError:
            self._lock.is_ours = True
            with suppress(OSError):
                self.heal()  # nothing half-written stays while the disk is full
            raise
        self._lock.is_ours = False

    @contextmanager
    def together(self, syncs: bool) -> Iterator[None]:
        """Within the block, let records reach the disk at its end, or at that of a later one."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            if syncs:
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


def _check_is_journal(path: Path) -> None:
    with path.open("rb") as file:
        start = b""
        while not start and (block := file.read(4096)):
            start = block.lstrip(b" ")  # of a first line that was mended
    if start.startswith(b"SQLite format 3"):
        raise UsageError(f"{path}: is a SQLite database. Write sqlite:///{path} to use it.")
    at = start.find(START)
    if not START.startswith(start if at < 0 else start[:at]):
        raise UsageError(f"{path}: is not a journal of Optuna. Choose another file, or one that does not exist yet.")


def _describe_damage(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not is_json(line):
                return f"{path}, line {number}: is damaged. Restore a copy of the file, or remove that line."
    return f"{path}: holds lines that are not Optuna's. Restore a copy of the file, or remove it."
