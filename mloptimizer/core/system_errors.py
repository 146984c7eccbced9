"""Says of an error of the operating system on a file what a person can do about it; nothing where that is unknown.

The system's own text always stands in front.
"""

import errno
from pathlib import Path

from mloptimizer.core.errors import RunError, UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_AGAIN = "then run the command again"
_LOST = "Mount its file system anew"
_ADVICE = {  # by the name of the error, as some systems lack some
    "EACCES": "Change its permissions, or choose a place that you may write",
    "EPERM": "Change its permissions, or choose a place that you may write",
    "EROFS": "Choose a folder on a disk that may be written",
    "ENAMETOOLONG": "Choose a shorter name",
    "ELOOP": "Put a file or a folder in the place of that symbolic link",
    "EISDIR": "Move that folder, or choose another name",
    "ENOTDIR": "Move the file that stands where a folder should, or choose another place",
    "EBUSY": f"End the program that uses it, {_AGAIN}",
    "ETXTBSY": f"End the program that uses it, {_AGAIN}",
    "ENOSPC": f"Free some space, {_AGAIN}",
    "EDQUOT": f"Your quota on this disk is used up. Free some space, {_AGAIN}",
    "EFBIG": "Raise the limit that your shell or the file system sets (ulimit -f), or choose another disk",
    "EMFILE": "Raise the number of files that a process may open: ulimit -n 4096",
    "ENFILE": f"This machine has no room for another open file. End other programs, {_AGAIN}",
    "ENOMEM": f"Close other programs, {_AGAIN}",
    "EIO": f"Check the disk or its connection, {_AGAIN}",
    "ENODEV": f"Connect the disk, {_AGAIN}",
    "ENXIO": f"Connect the disk, {_AGAIN}",
    "ESTALE": f"{_LOST}, {_AGAIN}",
    "ENOTCONN": f"{_LOST}, {_AGAIN}",
    "ETIMEDOUT": f"Check that the file server can be reached, {_AGAIN}",
    "EHOSTDOWN": f"Check that the file server can be reached, {_AGAIN}",
    "EHOSTUNREACH": f"Check that the file server can be reached, {_AGAIN}",
    "ENOLCK": "Its file system has no file locks. Choose a folder on another one, with --workspace DIR",
}
_ADVICE_BY_NUMBER = {getattr(errno, name): advice for name, advice in _ADVICE.items() if hasattr(errno, name)}
_A_PERSONS = {  # what a person has chosen is at fault, not the machine
    getattr(errno, name, None)
    for name in "EACCES EPERM EROFS ENAMETOOLONG ELOOP EISDIR ENOTDIR ENOENT EEXIST EINVAL ENOLCK".split()  # noqa: SIM905
}


def file_error(path: Path, error: OSError) -> UsageError | RunError:
    """Return an error of the operating system on the file as one line for the person."""
    reason, advice = error.strerror or str(error), _ADVICE_BY_NUMBER.get(error.errno or 0)
    line = f"{path}: {reason}. {advice}." if advice else f"{path}: {reason}."
    return UsageError(line) if error.errno in _A_PERSONS else RunError(line)
