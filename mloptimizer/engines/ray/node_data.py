"""Finds or keeps on a node the files that a trial needs: the decoded data set, and folders of its own.

Guarantees: the first trial on a node writes a data set, once, and only one with the plan's fingerprint is used. The
next agent removes what a killed one left behind.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mloptimizer.core import files
from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.locks import hold_lock, take_lock
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.data import decoded_cache
from mloptimizer.data.catalog import CATALOG
from mloptimizer.engines.process.left_over import LOCK, remove_left_over
from mloptimizer.engines.ray.parcels import Parcel, list_files, pack


def pack_dataset(dataset: DatasetInfo) -> Parcel:
    """Return the decoded data set for sending; empty if it is not on this machine."""
    wanted = [decoded_cache.INFO_FILE, *(f"{name}.npy" for name in decoded_cache.ARRAYS)]
    found = list_files(Path(dataset.directory))
    return pack({name: found[name] for name in wanted}) if set(wanted) <= found.keys() else {}


def find_dataset(dataset: DatasetInfo) -> DatasetInfo | None:
    """Return the data set with its folder on this node; None if the node's cache has none with the fingerprint."""
    folders = [Path(dataset.directory)]
    if dataset.name in CATALOG:
        folders += decoded_cache.entry_folders(CATALOG[dataset.name])
    for folder in folders:
        if _fingerprint(folder) == dataset.fingerprint and _is_whole(folder, dataset):
            return replace(dataset, directory=str(folder))
    return None


def keep_dataset(dataset: DatasetInfo, parcel: Parcel) -> DatasetInfo:
    """Return the data set with its folder on this node, after writing it into the node's cache if necessary.

    Args:
        parcel: of `pack_dataset`; empty: the driver has none, and the trial will report what is missing.

    Raises:
        UsageError, RunError: it cannot be written.
    """
    folder = decoded_cache.cache_folder()
    with hold_lock(folder / f".{dataset.fingerprint[:16]}.lock"):
        found = find_dataset(dataset)
        if found is not None or not parcel:
            return found or dataset
        return replace(dataset, directory=str(decoded_cache.receive_entry(dataset.name, dataset.fingerprint, parcel)))


def _fingerprint(folder: Path) -> str | None:
    try:
        return str(files.read_json(folder / decoded_cache.INFO_FILE)["fingerprint"])
    except (MloptimizerError, LookupError):
        return None


def _is_whole(folder: Path, dataset: DatasetInfo) -> bool:
    if dataset.name in CATALOG:
        return decoded_cache.read_entry(folder, CATALOG[dataset.name]) is not None
    return all((folder / f"{name}.npy").is_file() for name in decoded_cache.ARRAYS)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Provide a folder of this process on the node's disk, removed afterwards; its lock shows that it is in use."""
    base = _base() / "agents"
    base.mkdir(parents=True, exist_ok=True)
    mine = f"{socket.gethostname()}-"
    with hold_lock(base / ".lock"):  # a neighbour would take a new folder for left over
        remove_left_over(base.glob(f"{mine}*"))
        folder = Path(tempfile.mkdtemp(dir=base, prefix=mine))
        lock = take_lock(folder / LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def shared_folder(study: str) -> Path:
    """Return the folder on this node in which the trials of a study share compiled programs and batch sizes."""
    return _base() / "studies" / study


def _base() -> Path:
    """Return this user's folder for Ray on this node, beside the data sets."""
    return Path(os.path.abspath(decoded_cache.cache_folder().parent)) / "ray"  # noqa: PTH100 (keeps links)
