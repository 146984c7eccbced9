"""Opens an Optuna journal file, and repairs it after a kill or a full disk.

Guarantees: acknowledged records are never lost, those of a `together` block from its end on; before an unfinished
record can break reading, and before our next write, it is cut off, or replaced by spaces if another program has
appended to it; a repaired line keeps its length, so other programs can continue reading the open file; nobody waits for
the lock of a dead process; after a full disk, each record is written exactly once.
"""

import json
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


def open_journal(path: Path, *, read_only: bool = False, wait: Wait | None = None) -> BaseStorage:
    """Return the storage in the journal file, created if it does not exist.

    Args:
        read_only: create nothing, and repair only an unfinished record to which another program has appended, because
            it cannot be skipped; a missing file is an empty storage.
        wait: called before each retry while the disk is full; None: a full disk is an error.

    Raises:
        UsageError: the file is not a journal, or a line is damaged and cannot be repaired.
        OSError: the file or its folder cannot be read or written.
    """
    return persist(lambda: _open(path, read_only, wait), wait, _describer(path))


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
        backend.heal()  # also fails early if the folder cannot be written
        os.close(os.open(path, os.O_WRONLY))
    try:
        storage: Any = JournalStorage(cast(Any, backend))
        storage.together = backend.together  # for the function below
        return cast(BaseStorage, storage)
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise UsageError(_describe_damage(path)) from None


def together(storage: BaseStorage, *, syncs: bool = True) -> AbstractContextManager[None]:
    """Return a context in which a journal syncs its records once, at the end; it has no effect on other storages.

    Syncing takes longer than the rest of writing a record. Other programs see each record at once, and a kill of this
    one loses none.

    Args:
        syncs: if False, the next sync includes the records; a power failure before that loses them.
    """
    open_block: Callable[[bool], AbstractContextManager[None]] | None = getattr(storage, "together", None)
    return open_block(syncs) if open_block else nullcontext()


def _describer(path: Path) -> Describe:
    return lambda error: f"{path}: {getattr(error, 'strerror', None) or error}"


class HealingBackend:
    """Optuna's journal backend; it survives a full disk, and repairs the file."""

    def __init__(self, journal: Path, wait: Wait | None) -> None:
        self._path, self._wait = journal, wait
        self._lock = JournalLock(journal)
        self._file = JournalFileBackend(str(journal), lock_obj=cast(Any, self._lock))
        self._syncs_later = False

    def heal(self) -> None:
        """Repair the file, as the lock does whenever it is acquired."""
        self._lock.acquire()
        self._lock.release()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from this number on. Raises UsageError: a line is damaged and cannot be repaired."""
        number = log_number_from
        try:
            for log in self._file.read_logs(number):
                number += 1
                yield log
        except ValueError:
            try:
                if has_joined_line(self._path):
                    self._persist(self.heal)
                yield from self._file.read_logs(number)
            except (ValueError, OSError):
                raise UsageError(_describe_damage(self._path)) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the records; outside a `together` block they are synced on return."""
        start = self._lock.whole_bytes

        def append_once() -> None:
            if not self._has_written(logs, start):
                self._append(logs)

        self._persist(lambda: self._append(logs), append_once)

    def _persist(self, operation: Callable[[], object], again: Callable[[], object] | None = None) -> None:
        persist(operation, self._wait, _describer(self._path), again)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        try:
            (self._append_unsynced if self._syncs_later else self._file.append_logs)(logs)
        except OSError:
            self._lock.is_ours = True
            with suppress(OSError):
                self.heal()  # leave no partial record while the disk is full
            raise
        self._lock.is_ours = False

    @contextmanager
    def together(self, syncs: bool) -> Iterator[None]:
        """Sync the records of the block at its end, or at that of a later one."""
        self._syncs_later = True
        try:
            yield
        finally:
            self._syncs_later = False
            if syncs:
                self._persist(self._sync)

    def _append_unsynced(self, logs: list[dict[str, Any]]) -> None:
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
        """Return whether the file has the records after this offset: maybe only their sync failed."""
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
            start = block.lstrip(b" ")  # from a repaired first line
    if start.startswith(b"SQLite format 3"):
        raise UsageError(f"{path}: is an SQLite database. Write sqlite:///{path} to use it.")
    at = start.find(START)
    if not START.startswith(start if at < 0 else start[:at]):
        raise UsageError(f"{path}: is not an Optuna journal. Choose another file, or a new one.")


def _describe_damage(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not is_json(line):
                return f"{path}, line {number}: is damaged. Restore a copy of the file, or remove that line."
    return f"{path}: contains lines that Optuna did not write. Restore a copy of the file, or remove it."
