"""Writes and reads the small files of a workspace so that a kill at any moment leaves each of them whole.

Whole files appear by renaming a finished temporary file; growing files consist of lines and have one writer, and
readers skip a torn last line. Inside `waiting_for_room`, a full disk makes the writer wait instead of fail.
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from mloptimizer.core.errors import UsageError
from mloptimizer.core.system_errors import DISK_FULL, file_error

_DEEPEST_JSON = 50  # nested lists and objects; readers recurse into them
UNFINISHED = ".part"  # suffix of unfinished files, whose names begin with a dot

Wait = Callable[[str], None]
"""Takes a line that says what is wrong, and returns when it is worth trying again; raises to give up."""

_wait: ContextVar[Wait | None] = ContextVar("wait", default=None)


@contextlib.contextmanager
def waiting_for_room(wait: Wait) -> Iterator[None]:
    """Make this thread's writers wait while a disk is full: they call `wait` before each new try."""
    token = _wait.set(wait)
    try:
        yield
    finally:
        _wait.reset(token)


def when_there_is_room(path: Path, write: Callable[[], None]) -> None:
    """Write to the file; on a full disk, inside `waiting_for_room`, wait and write again.

    Raises:
        UsageError: the folder cannot be written.
        RunError: the disk is full or failed.
    """
    while True:
        try:
            return write()
        except OSError as error:
            wait = _wait.get()
            if wait is None or error.errno not in DISK_FULL:
                raise file_error(path, error) from error
            wait(f"{path}: {error.strerror}")


def write_text(path: Path, text: str) -> None:
    """Write the whole file as UTF-8, or leave the old one; raises as `whole_file`."""
    write_bytes(path, text.encode())


def write_readme(path: Path, text: str) -> None:
    """Write or update the program's README; leave a file with another title, which is the person's own."""
    title = text.partition("\n")[0]
    try:
        old = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        old = title
    except OSError:  # not a readable file
        return
    if old != text and old.partition("\n")[0] == title:
        write_text(path, text)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write the whole file, or leave the old one; raises as `whole_file`."""

    def write() -> None:
        with _replacing(path) as file:
            file.write(data)

    when_there_is_room(path, write)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file to write; when the block ends without an error, it is synced and moved to the path.

    Raises:
        UsageError: the folder cannot be written.
        RunError: the disk is full or failed.
    """
    try:
        with _replacing(path) as file:
            yield file
    except OSError as error:
        raise file_error(path, error) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write the whole JSON file, or leave the old one. Raises ValueError for NaN and infinities."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: bytes) -> Any:
    """Return the JSON value; all its texts can be written as UTF-8, and all its integers fit a float.

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, or holds half a character or a huge number.
    """
    try:
        value = json.loads(text.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_plain(value, _DEEPEST_JSON)
    return value


def _check_plain(value: Any, depth: int) -> None:
    if isinstance(value, str):
        value.encode()  # a UnicodeEncodeError is a ValueError
    elif isinstance(value, int) and value.bit_length() > 1023:
        raise ValueError(f"a number of {value.bit_length()} bits is too large")
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError("it is nested too deeply")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_plain(item, depth - 1)


def read_json(path: Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Return the JSON object in the file.

    Args:
        kinds: by field, the possible types of its value; a field may be missing.

    Raises:
        UsageError: the file is missing, unreadable, or not such a JSON object.
    """
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise file_error(path, error) from error
    except ValueError as error:
        raise UsageError(f"{path}: is not valid JSON ({error}). Restore it or remove it.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: holds a JSON {type(value).__name__}, not an object. Restore it or remove it.")
    for name, kind in (kinds or {}).items():
        if name in value and not isinstance(value[name], kind):
            raise UsageError(f"{path}: its {name} is a {type(value[name]).__name__}. Restore it or remove it.")
    return value


def line_of_json(value: Mapping[str, Any]) -> str:
    """Return the object as one line of JSON; NaN and infinities become null."""
    plain = {key: None if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def append_bytes(path: Path, data: bytes) -> None:
    """Append the data to a file in an existing folder; a kill may leave a part of it."""

    def write() -> None:
        with path.open("ab") as file:
            file.write(data)

    when_there_is_room(path, write)


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that a kill leaves at most a torn last line.

    It first ends a torn line that an earlier kill left, so that the new line stays separate.
    """

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.tell()
            file.seek(max(size - 1, 0))
            torn = file.read(1) not in (b"", b"\n")
            data = b"\n" * torn + line.encode() + b"\n"
            try:
                written = file.write(data) or 0
                if written < len(data):
                    file.write(data[written:])  # raises the reason
            except OSError:
                file.truncate(size)
                raise

    when_there_is_room(path, write)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of every whole line, skipping torn lines; none if the file is missing."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                value = parse_json(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
