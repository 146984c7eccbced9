"""Opens the Optuna storage of the studies: the workspace's journal file, or the one at a URL.

Guarantees: SQLite gives a waiting trial to one process only; every error becomes one line for the person, without
passwords.
"""

import importlib.util
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.core.files import Wait
from mloptimizer.core.secrets import hide_in, hide_secrets
from mloptimizer.core.system_errors import file_error
from mloptimizer.core.words import in_a_line
from mloptimizer.study.journal import open_journal
from mloptimizer.study.patience import find_cause, make_patient, persist

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]*)://")
_LOCK_SECONDS = 60  # how long SQLite itself waits for another program's lock
_POSSIBLE = "Possible: a path of a journal file, sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://…"


def open_storage(url: str, journal: Path, *, read_only: bool = False, wait: Wait | None = None) -> BaseStorage:
    """Return the storage at the URL, created if it does not exist.

    Args:
        url: an Optuna URL or the path of a journal file; empty: the workspace's journal.
        journal: the workspace's journal file.
        read_only: create nothing, and repair only what cannot be read otherwise; a missing file is an empty storage.
        wait: called with one line before each retry of the opening, and later of any operation of the storage, while
            the disk is full, the database locked or the server unreachable; it sleeps, or raises to give up. None:
            these are errors. `patience.make_patient` says what a server's lost answer leaves behind.

    Raises:
        UsageError: an unknown kind of URL, a missing driver, a refused login, a file with other contents.
        RunError: the server or the disk failed.
    """
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", "Choices for a categorical")  # a storage accepts all that fit in JSON
    with storage_errors(url, journal):
        if not _SCHEME.match(url):
            return open_journal(Path(url) if url else journal, read_only=read_only, wait=wait)
        open_ = partial(_open_sqlite, url, read_only) if url.startswith("sqlite") else partial(_open_server, url)
        describe = partial(_describe_trouble, url)
        storage = persist(open_, wait, describe)
        if wait and isinstance(storage, RDBStorage):
            make_patient(storage, wait, describe)
        return storage


def storage_place(url: str, journal: Path) -> str:
    """Return the storage's name in messages."""
    return hide_secrets(url) if url else str(journal)


@contextmanager
def storage_errors(url: str, journal: Path) -> Iterator[None]:
    """Translate the storage's errors within the block into one line for the person."""
    place = storage_place(url, journal)
    try:
        yield
    except MloptimizerError:
        raise
    except OSError as error:
        raise file_error(Path(error.filename or place), error) from None
    except UpdateFinishedTrialError:
        text = f"{place}: another program ended a running trial. Only one search may run a study at a time."
        raise RunError(text) from None
    except KeyError as error:
        if "Record does not exist" not in str(error):
            raise
        raise RunError(f"{place}: somebody deleted the study during the search.") from None
    except Exception as error:
        if not _is_of_the_storage(error):
            raise
        raise _translate(url, place, error) from None


def _is_of_the_storage(error: BaseException) -> bool:
    # By name, because importing SQLAlchemy takes long, and nothing raises its errors before it is imported.
    return isinstance(error, (StorageInternalError, sqlite3.Error)) or type(error).__module__.startswith("sqlalchemy.")


def _translate(url: str, place: str, error: BaseException) -> UsageError | RunError:
    wrapper, cause = find_cause(error)
    reason = _one_line(cause, url)
    if re.search(r"unable to open database|not a database|readonly database|malformed", reason):
        return UsageError(f"{place}: {reason}. Choose a file that you may write and that SQLite made, or a new one.")
    if re.search(r"(?i)authentication|access denied|password|does not exist|unknown database", reason):
        return UsageError(f"{place}: {reason}. Check user, password and database of the URL.")
    if type(wrapper).__name__ in {"ArgumentError", "NoSuchModuleError"}:
        return UsageError(f"{place}: is not a storage that can be opened. {_POSSIBLE}.")
    remedy = "Check that the server runs and can be reached"
    if isinstance(cause, sqlite3.Error):
        remedy = "Free some space, or end the program that locks the file"
    return RunError(f"{place}: {reason}. {remedy}, then run the command again.")


def _describe_trouble(url: str, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or _one_line(find_cause(error)[1], url)
    return f"{hide_secrets(url)}: {reason}"


def _one_line(error: BaseException, url: str) -> str:
    text = in_a_line(error) or type(error).__name__
    text = text.partition(" This probably means")[0]  # libpq explains itself at length
    return hide_in(text, url).rstrip(".")[:300]


def _open_sqlite(url: str, read_only: bool) -> BaseStorage:
    from sqlalchemy import event
    from sqlalchemy.engine import make_url

    try:
        path = make_url(url).database
    except ValueError as error:
        raise _no_url(url, error) from None
    if not path or path == ":memory:":
        example = "Write sqlite:///studies.db, or four slashes for an absolute path"
        raise UsageError(f"{hide_secrets(url)}: has no file name. {example}.")
    if read_only and not Path(path).exists() and not path.startswith("file:"):
        return InMemoryStorage()
    if not read_only and Path(path).exists():
        os.close(os.open(path, os.O_RDWR))  # SQLite itself would not fail before the first write
    # isolation_level None: the sqlite3 module leaves BEGIN to us.
    storage = _open_database(url, {"connect_args": {"timeout": _LOCK_SECONDS, "isolation_level": None}})
    if not read_only:
        # synchronous=NORMAL is safe with a write-ahead log. BEGIN IMMEDIATE takes the write lock before reading, so
        # that two processes never get the same waiting trial.
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
        event.listen(storage.engine, "connect", lambda connection, _: connection.executescript(pragmas))
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        storage.scoped_session.remove()
        storage.engine.dispose()  # new connections follow both rules
        with storage.engine.begin():
            pass  # fails early if they cannot
    return storage


def _open_server(url: str) -> BaseStorage:
    kind, rest = url.split("://", 1)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind in {"postgres", "postgresql", "postgresql+psycopg"}:
        if importlib.util.find_spec("psycopg") is None:
            install = "Install it: pip install 'mloptimizer[postgresql]'"
            raise UsageError(f"{hide_secrets(url)}: needs the extra 'postgresql'. {install}.")
        url = f"postgresql+psycopg://{rest}"
        # Detects within a minute that the host has vanished, also during a transaction.
        alive = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 4, "tcp_user_timeout": 60_000}
        options["connect_args"] = {"connect_timeout": 10, **alive}
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
    except ValueError as error:  # a port that is not a number
        raise _no_url(url, error) from None


def _no_url(url: str, error: ValueError) -> UsageError:
    return UsageError(f"{hide_secrets(url)}: is not a URL ({_one_line(error, url)}). {_POSSIBLE}.")
