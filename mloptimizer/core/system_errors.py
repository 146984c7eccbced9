"""Adds to the operating system's error on a file what a person can do about it, if that is known."""

import errno
from pathlib import Path

from mloptimizer.core.errors import RunError, UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_AGAIN = "then run the command again"
_ADVICE = {  # by the names of errors, because some systems lack some of them
    "EACCES EPERM": "Change its permissions, or choose a place where you may write",
    "EROFS": "Choose a folder on a writable disk",
    "ENAMETOOLONG": "Choose a shorter name",
    "ELOOP": "Replace that symbolic link with a file or folder",
    "EISDIR": "Move that folder, or choose another name",
    "ENOTDIR": "Move the file that is in the place of a folder, or choose another place",
    "EBUSY ETXTBSY": f"End the program that uses it, {_AGAIN}",
    "ENOSPC": f"Free some space, {_AGAIN}",
    "EDQUOT": f"Your quota on this disk is used up. Free some space, {_AGAIN}",
    "EFBIG": "Raise the size limit of your shell (ulimit -f) or file system, or choose another disk",
    "EMFILE": "Raise the number of files that a process may open: ulimit -n 4096",
    "ENFILE": f"This machine has too many open files. End other programs, {_AGAIN}",
    "ENOMEM": f"Close other programs, {_AGAIN}",
    "EIO": f"Check the disk or its connection, {_AGAIN}",
    "ENODEV ENXIO": f"Connect the disk, {_AGAIN}",
    "ESTALE ENOTCONN": f"Mount its file system again, {_AGAIN}",
    "ETIMEDOUT EHOSTDOWN EHOSTUNREACH": f"Check that the file server can be reached, {_AGAIN}",
    "ENOLCK": "Its file system has no file locks. Choose a folder on another one, with --workspace DIR",
}
_ADVICE_BY_NUMBER = {
    getattr(errno, name): advice for names, advice in _ADVICE.items() for name in names.split() if hasattr(errno, name)
}
_A_PERSONS = {  # errors in a person's choice, not in the machine
    getattr(errno, name, None)
    for name in "EACCES EPERM EROFS ENAMETOOLONG ELOOP EISDIR ENOTDIR ENOENT EEXIST EINVAL ENOLCK".split()  # noqa: SIM905
}


def file_error(path: Path, error: OSError) -> UsageError | RunError:
    """Return the operating system's error on the file as one line for the person."""
    reason, advice = error.strerror or str(error), _ADVICE_BY_NUMBER.get(error.errno or 0)
    line = f"{path}: {reason}. {advice}." if advice else f"{path}: {reason}."
    return UsageError(line) if error.errno in _A_PERSONS else RunError(line)
