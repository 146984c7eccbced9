"""Which errors of a storage are temporary, and are retried."""

import errno

import psycopg.errors
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from mloptimizer.study.patience import is_temporary, persist

CONNECTING = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


def as_optuna_tells(error: psycopg.Error) -> Exception:
    told = StorageInternalError("An exception is raised during the commit.")
    told.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", None, error)
    return told


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(CONNECTING + "FATAL:  the database system is starting up"),
        psycopg.OperationalError(CONNECTING + "FATAL:  the database system is shutting down"),
        psycopg.OperationalError(CONNECTING + "Connection refused\n\tIs the server running on that host?"),
        psycopg.OperationalError(CONNECTING + "No route to host"),
        psycopg.OperationalError("[Errno -3] Temporary failure in name resolution"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
        psycopg.errors.DiskFull("could not extend file"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
    ],
    ids=str,
)
def test_a_server_that_is_away_comes_back(error: psycopg.Error) -> None:
    assert is_temporary(as_optuna_tells(error))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(CONNECTING + 'FATAL:  password authentication failed for user "ann"'),
        psycopg.OperationalError(CONNECTING + 'FATAL:  database "studies" does not exist'),
        psycopg.OperationalError("[Errno -2] Name or service not known"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
    ],
    ids=str,
)
def test_a_wrong_url_does_not_become_right(error: psycopg.Error) -> None:
    assert not is_temporary(as_optuna_tells(error))
    assert not is_temporary(error)


def test_an_operation_is_tried_again_after_each_wait_and_the_second_way_from_then_on() -> None:
    told: list[str] = []
    done: list[str] = []

    def fail(name: str) -> str:
        done.append(name)
        if len(done) < 4:
            raise OSError(errno.ENOSPC, name)
        return name

    assert persist(lambda: fail("first"), told.append, str, lambda: fail("again")) == "again"
    assert done == ["first", "again", "again", "again"]
    assert told == ["[Errno 28] first", "[Errno 28] again", "[Errno 28] again"]


@pytest.mark.parametrize(("number", "wait"), [(errno.ENOSPC, None), (errno.EACCES, pytest.fail)])
def test_without_a_wait_or_a_temporary_error_the_error_is_raised(number: int, wait: object) -> None:
    def fail() -> None:
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        persist(fail, wait, str)
