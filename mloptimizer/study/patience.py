"""Knows which troubles of a storage pass by themselves, and tries an operation again until they have.

Guarantees: without a `Wait` nothing is tried again; a trouble that does not pass by itself is raised at once; an
operation that was stored although its answer was lost is not an error when it is tried again.
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

_SQLITE_PASSING = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}
_SQLITE_PASSING_EXTENDED = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}  # a full disk, told differently
# PostgreSQL: connection exceptions, disk full, too many connections, shut down, crashed, starting up.
_SQLSTATE_PASSING = re.compile(r"08|53100|53300|57P0[123]")
_SERVER_AWAY = re.compile(  # an error of connecting has no SQLSTATE
    r"(?i)is the server running|connection refused|connection reset|can't connect to|closed the connection"
    r"|timed? ?out|timeout expired|unreachable|no route to host|temporary failure in name resolution|too many clients"
    r"|the database system is|terminating connection|not yet accepting connections|recovery mode"
)


def persist(
    operation: Callable[[], _Result], wait: Wait | None, describe: Describe, again: Callable[[], _Result] | None = None
) -> _Result:
    """Return what the operation returns, tried again after each call of `wait` while its trouble may pass.

    Args:
        operation: what is tried.
        wait: called with the trouble before each further try; None: the first error is raised.
        describe: returns the line about an error.
        again: what is tried from the second time on, where the first may have been stored although it failed.
    """
    attempt = operation
    while True:
        try:
            return attempt()
        except Exception as error:
            if wait is None or not is_passing(error):
                raise
            trouble = describe(error)
        wait(trouble)
        attempt = again or operation


def is_passing(error: BaseException) -> bool:
    """Return whether the trouble passes by itself: a full disk, a database that is locked, a server that is away."""
    wrapper, cause = find_cause(error)
    if isinstance(cause, OSError):
        return cause.errno in DISK_FULL
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0)  # none where the sqlite3 module itself refuses
        return code & 0xFF in _SQLITE_PASSING or code in _SQLITE_PASSING_EXTENDED
    if not type(wrapper).__module__.startswith("sqlalchemy."):
        return False
    if getattr(wrapper, "connection_invalidated", False) or type(wrapper).__name__ == "PendingRollbackError":
        return True  # lost in the middle of a transaction, which has ended with it
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return _SQLSTATE_PASSING.match(state) is not None
    return type(wrapper).__name__ == "OperationalError" and _SERVER_AWAY.search(str(cause)) is not None


def find_cause(error: BaseException) -> tuple[BaseException, BaseException]:
    """Return the error of the library below Optuna, and that of the driver below it."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    return error, getattr(error, "orig", None) or error


def make_patient(storage: RDBStorage, wait: Wait, describe: Describe) -> None:
    """Let every operation of the database be tried again while its trouble may pass.

    Each is one transaction, so what failed left nothing behind. Where only the answer was lost, the second try
    finds what the first one stored: a trial that ended so counts as ended, a study as created. A trial that was
    created is created once more, and the first one stays without an owner (running without parameters, or waiting
    twice); a waiting trial that was claimed counts as another's, and stays running until it is handed on.
    """
    public = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]
    for name in [*public, *CACHE_OPERATIONS]:
        operation = create_trial if name == CREATE_TRIAL else getattr(RDBStorage, name)
        setattr(storage, name, partial(_persist, storage, operation, _AGAIN.get(name, operation), wait, describe))


def _persist(
    storage: RDBStorage,
    first: Callable[..., Any],
    again: Callable[..., Any],
    wait: Wait,
    describe: Describe,
    /,
    *values: Any,
    **named: Any,
) -> Any:
    return persist(partial(first, storage, *values, **named), wait, describe, partial(again, storage, *values, **named))


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
