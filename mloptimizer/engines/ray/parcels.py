"""Carries the files of a trial between its folder at the driver and its folder on the node that trains it.

Guarantees: files appear whole; a name that leads out of the folder is refused; files removed at one end are removed at
the other. Nothing here imports Ray: contents are arrays of bytes, which its object store shares.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from mloptimizer.core.errors import RunError
from mloptimizer.core.files import write_bytes

Parcel = Mapping[str, npt.NDArray[np.uint8]]
"""Contents of files by name relative to a folder, with slashes."""


def list_files(folder: Path, part: str = "") -> dict[str, Path]:
    """Return the files below a part of the folder by relative name, without unfinished ones."""
    try:
        found = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    except OSError:  # it has vanished
        return {}
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path for name, path in names.items() if not any(p.startswith(".") for p in name.split("/"))}


def pack(files: Mapping[str, Path]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the contents of the files, without those that have vanished."""
    parcel = {}
    for name, path in files.items():
        with suppress(OSError):
            parcel[name] = np.fromfile(path, np.uint8)
    return parcel


def unpack(parcel: Parcel, folder: Path) -> None:
    """Write the files into the folder, each whole.

    Raises:
        UsageError, RunError: a name leads out of the folder, or a file cannot be written.
    """
    for name, content in parcel.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise RunError(f"{name}: a worker sent a file with this name, which has no place in a trial's folder.")
        write_bytes(folder / path, np.ascontiguousarray(content).data)


def remove_others(folder: Path, part: str, kept: Iterable[str]) -> None:
    """Remove the files below a part of the folder whose names are not kept."""
    files = list_files(folder, part)
    for name in files.keys() - set(kept):
        files[name].unlink(missing_ok=True)


class Outbox:
    """Knows which files of a folder are new since the last `take`; those there at the start are known already."""

    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._part = folder, part
        self._sent = self._look()

    def _look(self) -> dict[str, tuple[int, int]]:
        seen = {}
        for name, path in list_files(self._folder, self._part).items():
            with suppress(OSError):
                status = path.stat()
                seen[name] = (status.st_size, status.st_mtime_ns)
        return seen

    def take(self) -> tuple[dict[str, Path], tuple[str, ...]]:
        """Return the new files, and the names of all files."""
        seen = self._look()
        new = {name: self._folder / name for name, signature in seen.items() if self._sent.get(name) != signature}
        self._sent = seen
        return new, tuple(seen)


class Tail:
    """Reads what was added to a growing file."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def take(self, most_bytes: int) -> bytes:
        """Return what was added since the last call, at most this much of it."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read(most_bytes)
        except OSError:
            return b""
        self._offset += len(added)
        return added

    def take_last(self, most_bytes: int) -> bytes:
        """Return the end of what was added since the last call, at most this much of it."""
        with suppress(OSError):
            self._offset = max(self._offset, self._path.stat().st_size - most_bytes)
        return self.take(most_bytes)
