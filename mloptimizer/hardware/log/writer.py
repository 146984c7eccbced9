"""Writes what the machine did during a trial to a file, one row per interval.

A hardware log is a CSV file with one writer. A kill leaves at most a torn last line, which readers skip and the next
writer cuts off. A value that could not be read is an empty cell. A log never exceeds `MAX_ROWS`: when it is full, it is
thinned (see `thinning`), and a kill leaves the log from before or after that.
"""

import contextlib
import errno
import io
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.files import UNFINISHED, when_there_is_room, whole_file, write_bytes
from mloptimizer.core.system_errors import file_error
from mloptimizer.hardware.columns import MAX_ROWS, Cell, Row
from mloptimizer.hardware.log.thinning import thin
from mloptimizer.hardware.read.reader import find_column

BEGINNING = b"time_utc,seconds,"  # of every hardware log


class HardwareLog:
    """Appends rows to a log, each in one write; continues a log that exists.

    A log with other columns, from another slot or an older version, is rewritten with the columns of both; its rows
    keep their cells.
    """

    def __init__(self, path: Path, header: Sequence[str], max_rows: int = MAX_ROWS) -> None:
        """Open the log, and write its header if it has none.

        Raises:
            UsageError: the file cannot be written, or is not a hardware log.
            RunError: the disk is full or failed.
        """
        self._path = path
        self._max_rows = self._next_thinning = max_rows
        whole = b""

        def open_log() -> None:
            nonlocal whole
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}.*{UNFINISHED}"):  # by a kill while it was thinned
                left.unlink(missing_ok=True)
            self._file = path.open("a+b", buffering=0)
            whole = _cut_torn_line(self._file)
            if not whole:
                self._write(",".join(header))

        when_there_is_room(path, open_log)
        present, _, rows = whole.partition(b"\n")
        self._header = list(header)
        self._rows = rows.count(b"\n")
        if present and present != ",".join(header).encode():
            self._add_columns(present, rows)

    def _add_columns(self, present: bytes, rows: bytes) -> None:
        """Rewrite the log with its present columns and those of the header."""
        self.close()
        if not present.startswith(BEGINNING):
            raise UsageError(f"{self._path}: is not a hardware log. Move it away, or remove it.")
        old = present.decode(errors="replace").split(",")
        self._header = list(dict.fromkeys([*self._header, *old]))
        place = {name: index for index, name in enumerate(old)}
        order = [place.get(name) for name in self._header]
        lines = [",".join(self._header).encode()]
        for line in rows.splitlines():
            cells = line.split(b",")
            if len(cells) == len(old):
                lines.append(b",".join(b"" if index is None else cells[index] for index in order))
        write_bytes(self._path, b"\n".join(lines) + b"\n")
        self._rows = len(lines) - 1
        self._reopen()

    def has_columns(self, names: Collection[str]) -> bool:
        """Return whether the log has all these columns."""
        return set(self._header).issuperset(names)

    def append(self, row: Row) -> None:
        """Append the row, with an empty cell for None, not-a-number and missing columns.

        Raises RunError: the disk is full or failed; no part of the row remains.
        """
        try:
            self._write(",".join(_cell(row.get(name)) for name in self._header))
        except OSError as error:
            raise file_error(self._path, error) from error
        self._rows += 1
        if self._rows >= self._next_thinning:
            with contextlib.suppress(MloptimizerError):  # without room for both, it keeps growing and is thinned later
                self._thin()
            self._next_thinning = max(self._max_rows, self._rows + self._max_rows // 8)

    def _thin(self) -> None:
        columns = [find_column(name) for name in self._header]
        try:
            with self._path.open("rb") as old, whole_file(self._path) as new:
                new.write(old.readline())
                kept = 0
                for line in thin(old, columns, self._header.index("seconds"), self._rows // 2):
                    new.write(line)
                    kept += 1
        except OSError as error:
            raise file_error(self._path, error) from error
        self._rows = kept
        self._reopen()

    def _reopen(self) -> None:
        try:
            fresh = self._path.open("a+b", buffering=0)
        except OSError as error:
            raise file_error(self._path, error) from error
        self.close()
        self._file = fresh

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        written = self._file.write(data) or 0
        if written != len(data):  # the disk had room for a part of it only
            self._file.truncate(self._file.seek(0, os.SEEK_END) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(file: io.FileIO) -> bytes:
    """Remove a last line without an end and return the rest: continued, half a number would read as a whole one."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    return whole


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or not math.isfinite(value) else str(round(value, 3))
