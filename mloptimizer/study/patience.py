"""Retries the operations of a storage while their errors are temporary.

Guarantees: without a `Wait` there is no retry; a permanent error is raised at once; the retry of an operation that was
stored although its answer was lost succeeds.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mloptimizer.core.files import Wait
from mloptimizer.core.system_errors import DISK_FULL
from mloptimizer.study.optuna_internals import CACHE_OPERATIONS, CREATE_TRIAL, create_trial

Describe = Callable[[BaseException], str]
_Result = TypeVar("_Result")

_SQLITE_TEMPORARY = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}
_SQLITE_TEMPORARY_EXTENDED = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}  # a full disk, too
# PostgreSQL: connection exceptions, disk full, too many connections, shut down, crashed, starting up.
_SQLSTATE_TEMPORARY = re.compile(r"08|53100|53300|57P0[123]")
_SERVER_AWAY = re.compile(  # connection errors have no SQLSTATE
    r"(?i)is the server running|connection refused|connection reset|can't connect to|closed the connection"
    r"|timed? ?out|timeout expired|unreachable|no route to host|temporary failure in name resolution|too many clients"
    r"|the database system is|terminating connection|not yet accepting connections|recovery mode"
)


def persist(
    operation: Callable[[], _Result], wait: Wait | None, describe: Describe, again: Callable[[], _Result] | None = None
) -> _Result:
    """Return the operation's result; while its error is temporary, call `wait` and retry.

    Args:
        wait: called with the line about the error; None: the first error is raised.
        describe: returns the line about an error.
        again: replaces `operation` from the second attempt on, if the first may have been stored although it failed.
    """
    attempt = operation
    while True:
        try:
            return attempt()
        except Exception as error:
            if wait is None or not is_temporary(error):
                raise
            line = describe(error)
        wait(line)
        attempt = again or operation


def is_temporary(error: BaseException) -> bool:
    """Return whether a retry may succeed: the disk is full, the database locked, or the server unreachable."""
    wrapper, cause = find_cause(error)
    if isinstance(cause, OSError):
        return cause.errno in DISK_FULL
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0)  # missing in errors of the sqlite3 module itself
        return code & 0xFF in _SQLITE_TEMPORARY or code in _SQLITE_TEMPORARY_EXTENDED
    if not type(wrapper).__module__.startswith("sqlalchemy."):
        return False
    if getattr(wrapper, "connection_invalidated", False) or type(wrapper).__name__ == "PendingRollbackError":
        return True  # the connection was lost during a transaction, which ended with it
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return _SQLSTATE_TEMPORARY.match(state) is not None
    return type(wrapper).__name__ == "OperationalError" and _SERVER_AWAY.search(str(cause)) is not None


def find_cause(error: BaseException) -> tuple[BaseException, BaseException]:
    """Return the error of the library that Optuna uses, and that of the database driver below."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    return error, getattr(error, "orig", None) or error


def make_patient(storage: RDBStorage, wait: Wait, describe: Describe) -> None:
    """Make the storage retry every operation while its error is temporary.

    Each operation is one transaction, so a failed one leaves nothing behind. If only the answer was lost, the retry
    finds what the first attempt stored: the trial has ended, or the study was created. A created trial is created
    again, and the first one stays without an owner (running without parameters, or waiting twice); a claimed waiting
    trial seems to be another program's, and stays running until the next driver queues it again.
    """

    def patient(first: Callable[..., Any], again: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            retry = partial(again, storage, *values, **named)
            return persist(partial(first, storage, *values, **named), wait, describe, retry)

        return call

    public = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]
    for name in [*public, *CACHE_OPERATIONS]:
        operation = create_trial if name == CREATE_TRIAL else getattr(RDBStorage, name)
        setattr(storage, name, patient(operation, _AGAIN.get(name, operation)))


def _create_study_again(
    storage: RDBStorage, directions: Sequence[StudyDirection], study_name: str | None = None
) -> int:
    try:
        return RDBStorage.create_new_study(storage, directions, study_name)
    except DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(study_name or "")
        if storage.get_study_directions(study_id) != list(directions) or storage.get_n_trials(study_id):
            raise
        return study_id


def _set_state_again(
    storage: RDBStorage, trial_id: int, state: TrialState, values: Sequence[float] | None = None
) -> bool:
    try:
        return RDBStorage.set_trial_state_values(storage, trial_id, state, values)
    except UpdateFinishedTrialError:
        trial = storage.get_trial(trial_id)
        if trial.state != state or (values is not None and list(values) != trial.values):
            raise
        return True


_AGAIN: dict[str, Callable[..., Any]] = {
    "create_new_study": _create_study_again,
    "set_trial_state_values": _set_state_again,
}
