"""Keeps every data set decoded on disk, in files that all processes map into their memory.

An entry is a folder of four .npy files and info.json. It appears whole, by a rename, or not at all; a damaged entry is
replaced by a whole one; several processes may write the same entry at once. Its name contains a digest of the path,
size and time of its source files, so that a changed source creates a new entry.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mloptimizer.core import files
from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.core.system_errors import file_error
from mloptimizer.data import formats, sources
from mloptimizer.data.catalog import Dataset
from mloptimizer.data.formats import Parts
from mloptimizer.data.sources import Source

_FORMAT = 1  # increase it when the meaning of an entry's content changes
INFO_FILE = "info.json"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Entry:
    """A whole entry of the cache."""

    directory: Path
    fingerprint: str  # SHA-256 of the decoded images and labels
    train_size: int
    test_size: int


def cache_folder() -> Path:
    """Return the folder of the entries: in `$MLOPTIMIZER_CACHE`, else where the operating system keeps caches."""
    chosen = os.environ.get("MLOPTIMIZER_CACHE")
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser())) / "datasets"  # noqa: PTH100 (keeps links as they are)
    import pooch  # slow to import

    return Path(pooch.os_cache("mloptimizer")) / "datasets"


def find_entry(dataset: Dataset) -> Entry | None:
    """Return the whole entry for the files on this machine or, if there are none, the data set's newest entry."""
    source = sources.locate(dataset)
    if source is None:
        kept = (read_entry(folder, dataset) for folder in entry_folders(dataset))
        return next((entry for entry in kept if entry is not None), None)
    return None if source.missing else read_entry(_entry_path(dataset, source), dataset)


def make_entry(dataset: Dataset) -> Entry:
    """Decode the data set into the cache, after downloading missing files; takes up to 400 MB of memory.

    Raises:
        UsageError: a source is damaged, or the cache cannot be written.
        RunError: a download failed, or the disk is full.
    """
    source = sources.locate(dataset)
    if sources.can_complete(source, dataset):
        sources.download(dataset)
        source = sources.locate(dataset)
    if source is None:
        raise UsageError(f"{sources.source_folder(dataset)}: has no {dataset.name}. Install scikit-learn again.")
    path = _entry_path(dataset, source)
    parts = formats.read_parts(source.kind, source.files, dataset)
    try:
        return _publish(path, parts, source, dataset)
    except OSError as error:
        raise _cache_error(path.parent, error) from error


def read_entry(path: Path, dataset: Dataset) -> Entry | None:
    """Return the entry, or None if it is missing, incomplete or damaged.

    Its files must have the sizes and times of when they were written; if only a time differs, their content decides.
    """
    try:
        info = files.read_json(path / INFO_FILE)
        entry = Entry(path, str(info["fingerprint"]), int(info["train_size"]), int(info["test_size"]))
        if info["format"] != _FORMAT or info["name"] != dataset.name:
            return None
        shapes = [np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False).shape for name in ARRAYS]
        sizes = (entry.train_size, entry.test_size)
        if shapes != [shape for size in sizes for shape in ((size, *dataset.input_shape), (size,))]:
            return None
        if info["times"] != _times(path) and _fingerprint(path) != entry.fingerprint:
            return None
    except (MloptimizerError, OSError, ValueError, LookupError, TypeError, EOFError):
        return None
    return entry


def _times(path: Path) -> list[int]:
    return [(path / f"{name}.npy").stat().st_mtime_ns for name in ARRAYS]


def _entry_path(dataset: Dataset, source: Source) -> Path:
    identity = [f"{_FORMAT} {dataset.name} {source.kind}"]
    for path in source.files:
        try:
            status = path.stat()
            identity.append(f"{path} {status.st_size} {status.st_mtime_ns}")
        except FileNotFoundError:
            identity.append(f"{path} missing")
    key = hashlib.sha256("\n".join(identity).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_folder() / f"{dataset.name}-{key}"


def entry_folders(dataset: Dataset) -> list[Path]:
    """Return the folders of the data set's entries, newest first, without checking that they are whole."""
    found = cache_folder().glob(f"{dataset.name}-*/{INFO_FILE}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


# --- writing


def receive_entry(name: str, fingerprint: str, arrays: Mapping[str, npt.NDArray[np.uint8]]) -> Path:
    """Write an entry that another machine sent, and return its folder.

    Args:
        name: of the data set.
        fingerprint: of its content, which is checked.
        arrays: the bytes of the four arrays and of info.json, by file name.

    Raises:
        UsageError: the cache cannot be written.
        RunError: the content does not match the fingerprint, or the disk is full.
    """
    folder = cache_folder() / f"{name}-{fingerprint[:16]}"
    try:
        with _folder_beside(folder) as temporary:
            for file_name in (INFO_FILE, *(f"{array}.npy" for array in ARRAYS)):
                (temporary / file_name).write_bytes(arrays[file_name].data)
            if _fingerprint(temporary) != fingerprint:
                raise RunError(f"{name}: its images were damaged on their way here. Run the command again.")
            info = {**files.read_json(temporary / INFO_FILE), "times": _times(temporary)}
            files.write_json(temporary / INFO_FILE, info)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one: callers look for whole ones first
            temporary.rename(folder)
    except OSError as error:
        raise _cache_error(folder.parent, error) from error
    return folder


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder that can be renamed to the path; remove what remains of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(path: Path, parts: Parts, source: Source, dataset: Dataset) -> Entry:
    """Write the entry, unless another process is faster; replace a damaged one."""
    sources.remove_abandoned(path.parent, f".{path.name}.")
    with _folder_beside(path) as temporary:
        _write_arrays(temporary, parts)
        _write_info(temporary, parts, source, dataset)
        for _ in range(10):
            entry = read_entry(path, dataset)
            if entry is not None:
                return entry
            with _folder_beside(path) as damaged, contextlib.suppress(OSError):
                if os.path.lexists(path):
                    path.rename(damaged / "damaged")
                temporary.rename(path)  # fails if another process renamed at the same moment: look again
    raise RunError(f"{path}: other processes keep replacing it. Run the command again.")


def _write_arrays(folder: Path, parts: Parts) -> None:
    # Written, not mapped: then a full disk raises an error instead of killing the process (SIGBUS).
    for name, pieces in zip(ARRAYS, (array for batches in parts for array in zip(*batches, strict=True)), strict=True):
        dtype = np.dtype(np.uint8 if name.endswith("images") else "<i4")
        shape = (sum(map(len, pieces)), *pieces[0].shape[1:])
        with (folder / f"{name}.npy").open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                for start in range(0, len(piece), 1024):
                    file.write(np.ascontiguousarray(piece[start : start + 1024], dtype).tobytes())


def _write_info(folder: Path, parts: Parts, source: Source, dataset: Dataset) -> None:
    training, test = (sum(len(labels) for _, labels in part) for part in parts)
    info = {
        "format": _FORMAT,
        "name": dataset.name,
        "input_shape": list(dataset.input_shape),
        "class_names": list(dataset.class_names),
        "train_size": training,
        "test_size": test,
        "fingerprint": _fingerprint(folder),
        "times": _times(folder),
        "source": [str(path) for path in source.files],
    }
    files.write_json(folder / INFO_FILE, info)


def _fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the four arrays: their names, shapes, types and content."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        array: Any = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        digest.update(f"{name} {array.shape} {array.dtype.str}".encode())
        with (folder / f"{name}.npy").open("rb") as file:
            file.seek(array.offset)
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def _cache_error(folder: Path, error: OSError) -> MloptimizerError:
    known = file_error(folder, error)
    return type(known)(f"{known} Decoded images are stored there; MLOPTIMIZER_CACHE can name another folder.")
