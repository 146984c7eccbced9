"""Writes and reads the small files of a workspace so that a kill at any moment leaves each of them whole.

Whole files appear by renaming a finished temporary file; growing files are made of lines, with one writer, and a torn
last line is left out when they are read.
"""

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from mloptimizer.errors import RunError, UsageError


def write_text(path: Path, text: str) -> None:
    """Write the whole file as UTF-8, or leave what was there; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file, or leave what was there; raises as `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes its place at the path, on the disk, when the block has ended well.

    Raises:
        UsageError: the folder cannot be written.
        RunError: the disk is full or failed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise file_error(path, error) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the whole JSON file, or leave what was there. NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file.

    Raises:
        UsageError: the file is missing, unreadable, or holds something else than one JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise file_error(path, error) from error
    except ValueError as error:
        raise UsageError(f"{path}: is not valid JSON ({error}). Restore it or remove it.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: holds a JSON {type(value).__name__}, not an object. Restore it or remove it.")
    return value


def line_of_json(value: Mapping[str, Any]) -> str:
    """Return the object as one line of JSON; figures that are not finite become null."""
    plain = {key: None if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that a kill leaves at most a torn last line.

    A torn line that an earlier kill left is closed first, so that it never swallows the new one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            start = b"\n" if _ends_torn(file.tell(), path) else b""
            file.write(start + line.encode() + b"\n")
    except OSError as error:
        raise file_error(path, error) from error


def _ends_torn(size: int, path: Path) -> bool:
    if size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of every whole line; torn lines are left out, a missing file has none."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def file_error(path: Path, error: OSError) -> UsageError | RunError:
    """Translate an operating-system error on a file into one line for the person."""
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return UsageError(f"{path}: {reason}. Choose a folder that you may write, with --workspace DIR.")
    if isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)):
        return UsageError(f"{path}: {reason}.")
    return RunError(f"{path}: {reason}. Free some space or repair the disk, then run the command again.")


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the file as a lock of this process; the system frees it when the process ends, however it ends.

    Args:
        path: the lock's file; it stays, and names the last holder.
        busy: the error's text when another process holds it; ``{pid}`` in it becomes that process. Empty: wait for it.

    Raises:
        UsageError: another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise file_error(path, error) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                file.seek(0)
                raise UsageError(busy.format(pid=file.read().strip() or "?")) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
