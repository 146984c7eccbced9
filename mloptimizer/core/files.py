"""Writes and reads the small files of a workspace so that a kill at any moment leaves each of them whole.

Whole files appear by renaming a finished temporary file; growing files are made of lines, with one writer, and a torn
last line is left out when they are read. Where `waiting_for_room` says so, a full disk makes the writer wait instead of
fail.
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

DEEPEST_JSON = 50  # lists and objects in one another: who reads them goes down into each
UNFINISHED = ".part"  # ending of the names, which begin with a dot, of what is not whole yet

Wait = Callable[[str], None]
"""Takes a line that says what is wrong, and returns when it may be better; raises to give up."""

_wait: ContextVar[Wait | None] = ContextVar("wait", default=None)


@contextlib.contextmanager
def waiting_for_room(wait: Wait) -> Iterator[None]:
    """Let the writers of this thread wait while a disk is full: `wait` is called before every further try."""
    token = _wait.set(wait)
    try:
        yield
    finally:
        _wait.reset(token)


def when_there_is_room(path: Path, write: Callable[[], None]) -> None:
    """Write to the file; where the disk is full and `waiting_for_room` says so, wait and write again.

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
    """Write the whole file as UTF-8, or leave what was there; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_readme(path: Path, text: str) -> None:
    """Write a README that the program made, or an earlier version of it; one of a person's own stays.

    Raises as `write_bytes`.
    """
    title = text.partition("\n")[0]
    try:
        there = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        there = title
    except OSError:  # something else has its name
        return
    if there != text and there.partition("\n")[0] == title:
        write_text(path, text)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write the whole file, or leave what was there; raises as `whole_file`."""

    def write() -> None:
        with _replacing(path) as file:
            file.write(data)

    when_there_is_room(path, write)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes its place at the path, on the disk, when the block has ended well.

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
    """Write the whole JSON file, or leave what was there. NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: bytes) -> Any:
    """Return the JSON value, of which every text can be written and every whole number be computed with.

    Raises:
        ValueError: it is no JSON in UTF-8, is nested too deeply, or holds half a character or an absurd number.
    """
    try:
        value = json.loads(text.decode(), parse_int=_parse_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_plain(value, DEEPEST_JSON)
    return value


def _parse_int(digits: str) -> int:
    if math.isinf(float(digits)):
        raise ValueError(f"a number of {len(digits)} digits is too large")
    return int(digits)


def _check_plain(value: Any, depth: int) -> None:
    if isinstance(value, str):
        value.encode()  # a UnicodeEncodeError is a ValueError
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError("it is nested too deeply")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_plain(item, depth - 1)


def read_json(path: Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Return the JSON object in the file.

    Args:
        kinds: by field, the types of which its value must be, where it is there.

    Raises:
        UsageError: the file is missing, unreadable, or holds something else than one such JSON object.
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
    """Return the object as one line of JSON; figures that are not finite become null."""
    plain = {key: None if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def append_bytes(path: Path, data: bytes) -> None:
    """Append the data to a file in a folder that is there; a kill may leave a part of it."""

    def write() -> None:
        with path.open("ab") as file:
            file.write(data)

    when_there_is_room(path, write)


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write, so that a kill leaves at most a torn last line.

    A torn line that an earlier kill left is closed first, so that it never swallows the new one.
    """
    when_there_is_room(path, lambda: _append(path, line))


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        size = file.tell()
        data = (b"\n" if _ends_torn(size, path) else b"") + line.encode() + b"\n"
        try:
            written = file.write(data) or 0
            if written < len(data):
                file.write(data[written:])  # says why
        except OSError:
            file.truncate(size)
            raise


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
                value = parse_json(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
