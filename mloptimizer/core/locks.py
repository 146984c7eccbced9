"""Keeps processes apart by locks on files, which the system releases when their holder ends for any reason.

A lock's file stays, and names the last holder. A symbolic link in its place is an error. A child that the holder
forks does not hold the lock.
"""

import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mloptimizer.core.errors import UsageError
from mloptimizer.core.system_errors import file_error

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LOCKLESS = (errno.ENOSYS, errno.EOPNOTSUPP)
_READERS_SECONDS = 0.5  # `is_held` and `is_abandoned` hold a lock for a moment


class HeldError(UsageError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the file as a lock of this process, within the block.

    Args:
        busy: the error's text when another process holds it; ``{holder}`` in it becomes that process, its machine and
            the time when it took the lock. Empty: wait for it.

    Raises:
        HeldError: another process holds it.
        UsageError, RunError: the file cannot be written, or its file system has no locks.
    """
    with take_lock(path, busy):
        yield


def take_lock(path: Path, busy: str = "") -> "BaseFileLock":
    """Return the lock, held until it is released or garbage-collected, or this process ends; see `hold_lock`."""
    from filelock import FileLock, Timeout  # takes 50 ms, which commands without a lock need not spend

    lock = FileLock(path, _READERS_SECONDS if busy else -1, preserve_lock_file=True, on_acquired=_sign)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise HeldError(busy.format(holder=_read_holder(path))) from None
    except OSError as error:
        raise file_error(path, lock_error(error)) from error
    return lock


def check_locks(folder: Path) -> None:
    """Check that a file in the folder can be written and locked; leave nothing. Raises OSError if it cannot."""
    from filelock import lock_descriptor

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            raise lock_error(error) from error


def lock_error(error: OSError) -> OSError:
    """Return the error that locking a file raised; ENOLCK whenever the file system has no locks."""
    return OSError(errno.ENOLCK, error.strerror) if error.errno in _LOCKLESS else error


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    with contextlib.suppress(OSError):  # on a full disk the lock works without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "?"
    except OSError:
        return "?"


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock; creates nothing, and two that ask do not see each other."""
    return _look(path) is True


def is_abandoned(path: Path) -> bool:
    """Return whether the lock's file exists and certainly no process holds it."""
    return _look(path) is False


def _look(path: Path) -> bool | None:
    try:
        import fcntl

        with path.open("rb") as file:  # shared, which filelock is not: two that ask must not see each other
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; no such file
        return None
    return False
