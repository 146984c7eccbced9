"""Keeps what the machine did during a trial, one row per interval, in a file.

A hardware log is a CSV file with one writer. A kill leaves at most a torn last line, which is left out when the log is
read and cut off when it is continued. A figure that could not be read is an empty cell.
"""

import errno
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mloptimizer.errors import UsageError
from mloptimizer.files import file_error, when_there_is_room
from mloptimizer.hardware.columns import Cell

Row = Mapping[str, Cell]


class HardwareLog:
    """Appends rows to a log, each in one write; a log that is there already is continued."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        """Open the log, and write its header if it has none.

        Raises:
            UsageError: the file cannot be written, or has other columns.
            RunError: the disk is full or failed.
        """
        self._path = path
        self._header = header
        there = ""

        def open_log() -> None:
            nonlocal there
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            there = _cut_torn_line(self._file).decode(errors="replace").partition("\n")[0]
            if not there:
                self._write(",".join(header))

        when_there_is_room(path, open_log)
        if there not in ("", ",".join(header)):
            self.close()
            raise UsageError(f"{path}: has other columns than this slot's log. Move it away, or remove it.")

    def append(self, row: Row) -> None:
        """Append the row, with an empty cell for None, not-a-number and missing columns.

        Raises:
            RunError: the disk is full or failed; no part of the row stays.
        """
        try:
            self._write(",".join(_cell(row.get(name)) for name in self._header))
        except OSError as error:
            raise file_error(self._path, error) from error

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        if self._file.write(data) != len(data):
            _cut_torn_line(self._file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # only a part of it could be written

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(file: io.FileIO) -> bytes:
    """Remove a last line without an end and return the rest: closed, half a number would read as a whole one."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    return whole


def _cell(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or not math.isfinite(value) else str(round(value, 3))
