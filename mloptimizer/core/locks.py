"""Keeps processes apart by locks on files, which the system frees when their holder ends, however it ends.

A lock's file stays, and names the last holder. A symbolic link in its place is refused, never followed. A child that
the holder forks does not hold the lock.
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
_READERS_SECONDS = 0.5  # whoever only asks whether a lock is held holds it for a moment


class HeldError(UsageError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the file as a lock of this process, within the block.

    Args:
        busy: the error's text when another process holds it; ``{holder}`` in it becomes that process, its machine and
            since when it holds it. Empty: wait for it.

    Raises:
        HeldError: another process holds it.
        UsageError, RunError: the file cannot be written, or its file system has no locks.
    """
    lock = take_lock(path, busy)
    try:
        yield
    finally:
        lock.release()


def take_lock(path: Path, busy: str = "") -> "BaseFileLock":
    """Return the lock, held until it is released, forgotten, or this process ends; arguments and errors as above."""
    from filelock import FileLock, Timeout  # 50 ms, which a command that takes no lock does not spend

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
    """Make sure that a file can be written and locked in the folder; nothing stays.

    Raises:
        OSError: it cannot.
    """
    from filelock import lock_descriptor

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            raise lock_error(error) from error


def lock_error(error: OSError) -> OSError:
    """Return what locking a file raised; of a file system without locks, the error that says so."""
    return OSError(errno.ENOLCK, error.strerror) if error.errno in _LOCKLESS else error


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "?"
    except OSError:
        return "?"


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock; nothing is created, and those who ask do not see each other."""
    return _look(path) is True


def is_abandoned(path: Path) -> bool:
    """Return whether the lock's file is there, and certainly no process holds it."""
    return _look(path) is False


def _look(path: Path) -> bool | None:
    try:
        import fcntl

        with path.open("rb") as file:  # filelock has no shared lock: two who ask would take each other for a holder
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; no such file, or just being made
        return None
    return False
