"""Opens the Optuna storage that holds the studies: the workspace's journal file, or the one that an URL names.

Guarantees: a kill at any moment leaves a journal that the next opening heals; SQLite hands a waiting trial to one
process only; whatever goes wrong becomes one line for the person, and no such line ever holds a password.
"""

import importlib.util
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

from mloptimizer.errors import MloptimizerError, RunError, UsageError
from mloptimizer.files import file_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]*)://")
_PASSWORD = re.compile(r"(?<=://)([^:/]*):(.*)(?=@)", re.DOTALL)  # to the last @: what follows an @ may still be secret
_SECRET_FIELD = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)([^&]*)")
_JOURNAL_START = b'{"op_code":'
_POSSIBLE = "Possible: a path of a journal file, sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://…"


def open_storage(url: str, journal: Path, *, read_only: bool = False) -> BaseStorage:
    """Return the storage that the URL names, created where it is missing.

    Args:
        url: an Optuna URL or the path of a journal file; empty: the workspace's journal.
        journal: the workspace's journal file.
        read_only: create and mend nothing; a file that is missing is an empty storage.

    Raises:
        UsageError: an unknown kind of URL, a missing driver, a refused log-in, a file that holds something else.
        RunError: the server or the disk failed.
    """
    _quieten_optuna()
    with storage_errors(url, journal):
        if not _SCHEME.match(url):
            return _open_journal(Path(url) if url else journal, read_only)
        if url.startswith("sqlite"):
            return _open_sqlite(url, read_only)
        return _open_server(url)


def hide_secrets(url: str) -> str:
    """Return the URL without its passwords.

    >>> hide_secrets("postgresql://ann:p@ss@host/studies?sslpassword=x")
    'postgresql://ann:***@host/studies?sslpassword=***'
    """
    return _SECRET_FIELD.sub(r"\1***", _PASSWORD.sub(r"\1:***", url))


def storage_place(url: str, journal: Path) -> str:
    """Return the storage's name in messages."""
    return hide_secrets(url) if url else str(journal)


@contextmanager
def storage_errors(url: str, journal: Path) -> Iterator[None]:
    """Turn what the storage raises within the block into one line for the person."""
    place = storage_place(url, journal)
    try:
        yield
    except MloptimizerError:
        raise
    except OSError as error:
        raise file_error(Path(error.filename or place), error) from None
    except UpdateFinishedTrialError:
        raise RunError(
            f"{place}: another program ended a running trial. One search at a time may run a study."
        ) from None
    except KeyError as error:
        if "Record does not exist" not in str(error):
            raise
        raise RunError(f"{place}: the study was deleted meanwhile.") from None
    except Exception as error:
        if not _is_of_the_storage(error):
            raise
        raise _translate(url, place, error) from None


def _is_of_the_storage(error: BaseException) -> bool:
    # SQLAlchemy is not imported to ask: who has never imported it has none of its errors.
    return isinstance(error, (StorageInternalError, sqlite3.Error)) or type(error).__module__.startswith("sqlalchemy.")


def _translate(url: str, place: str, error: BaseException) -> UsageError | RunError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    reason = _one_line(getattr(cause, "orig", None) or cause, url)
    if re.search(r"unable to open database|not a database|readonly database|malformed", reason):
        return UsageError(f"{place}: {reason}. Choose a file that you may write and that SQLite made, or a new one.")
    if re.search(r"(?i)authentication|access denied|password|does not exist|unknown database", reason):
        return UsageError(f"{place}: {reason}. Check user, password and database of the URL.")
    if type(cause).__name__ in {"ArgumentError", "NoSuchModuleError"}:
        return UsageError(f"{place}: is not a storage that can be opened. {_POSSIBLE}.")
    return RunError(f"{place}: {reason}. Check that the server runs and can be reached, then run the command again.")


def _one_line(error: BaseException, url: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    secrets = [found.group(2) for pattern in (_PASSWORD, _SECRET_FIELD) for found in pattern.finditer(url)]
    for secret in sorted({part for s in secrets for part in (s, unquote(s)) if part}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text.rstrip(".")[:300]


def _quieten_optuna() -> None:
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class FlockLock:
    """Keeps the writers of a journal apart, and heals the journal's torn last line before each writing.

    The operating system releases the lock of a process that dies, so a kill never makes the next writer wait. The side
    file is not the one of Optuna's own locks: a dashboard that writes with those needs no exclusion from our
    writing (each appends its lines in one system call), only from our cutting, which therefore takes its lock too.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._side = journal.with_name(journal.name + ".flock")
        self._descriptor = -1

    def acquire(self) -> bool:
        descriptor = os.open(self._side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_torn(self._journal):
                _cut_torn_line(self._journal)
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
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _cut_torn_line(journal: Path) -> None:
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        if _is_torn(journal):  # no longer, where the dashboard was in the middle of writing
            with journal.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
            _logger.warning("%s: a torn last line was cut off", journal)
    finally:
        lock.release()


def _open_journal(path: Path, read_only: bool) -> BaseStorage:
    if not path.exists():
        if read_only:
            return InMemoryStorage()
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        _check_is_journal(path)
    # Elsewhere than on POSIX: the lock that the dashboard takes there.
    lock = cast(Any, FlockLock(path) if fcntl else JournalFileOpenLock(str(path)))
    backend = JournalFileBackend(str(path), lock_obj=lock)
    if not read_only:
        lock.acquire()  # heals, and finds out early whether the folder can be written
        lock.release()
        os.close(os.open(path, os.O_WRONLY))
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise UsageError(_describe_damage(path)) from None


def _check_is_journal(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"SQLite format 3"):
        raise UsageError(f"{path}: is a SQLite database. Write sqlite:///{path} to use it.")
    if not start.startswith(_JOURNAL_START) and not _JOURNAL_START.startswith(start):
        raise UsageError(f"{path}: is not a journal of Optuna. Choose another file, or one that does not exist yet.")


def _describe_damage(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line)
            except ValueError:
                return f"{path}, line {number}: is damaged. Restore a copy of the file, or remove that line."
    return f"{path}: holds lines that are not Optuna's. Restore a copy of the file, or remove it."


def _open_sqlite(url: str, read_only: bool) -> BaseStorage:
    from sqlalchemy import event
    from sqlalchemy.engine import make_url

    path = make_url(url).database
    if not path or path == ":memory:":
        raise UsageError(f"{url}: names no file. Write sqlite:///studies.db, or four slashes for an absolute path.")
    if read_only and not Path(path).exists() and not path.startswith("file:"):
        return InMemoryStorage()
    if not read_only and Path(path).exists():
        os.close(os.open(path, os.O_RDWR))  # SQLite would find out at the first writing only
    # isolation_level None: the sqlite3 module leaves BEGIN to us.
    storage = _open_database(url, {"connect_args": {"timeout": 60, "isolation_level": None}})
    if not read_only:
        event.listen(storage.engine, "connect", _use_write_ahead_log)
        event.listen(storage.engine, "begin", _begin_immediately)
        storage.scoped_session.remove()
        storage.engine.dispose()  # later connections know the two rules
        with storage.engine.begin():
            pass  # finds out early whether they can be kept
    return storage


def _use_write_ahead_log(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # safe with a write-ahead log


def _begin_immediately(connection: Any) -> None:
    # Takes the write lock before reading, so that two processes never pop the same waiting trial.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _open_server(url: str) -> BaseStorage:
    kind, rest = url.split("://", 1)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind in {"postgres", "postgresql", "postgresql+psycopg"}:
        if importlib.util.find_spec("psycopg") is None:
            raise UsageError(
                f"{hide_secrets(url)}: needs the extra 'postgresql'. Install it: pip install 'mloptimizer[postgresql]'."
            )
        url = f"postgresql+psycopg://{rest}"
        options["connect_args"] = {"connect_timeout": 10}
    return _open_database(url, options)


def _open_database(url: str, options: dict[str, Any]) -> RDBStorage:
    try:
        return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
    except ImportError as error:
        reason = _one_line(error.__cause__ or error, url)
        raise UsageError(f"{hide_secrets(url)}: its database driver is not installed ({reason}).") from None
    except RuntimeError as error:
        if _is_of_the_storage(error):
            raise
        raise UsageError(f"{hide_secrets(url)}: {_one_line(error, url)}.") from None
    except ValueError as error:  # a port that is no number
        raise UsageError(f"{hide_secrets(url)}: is not an URL ({_one_line(error, url)}). {_POSSIBLE}.") from None
