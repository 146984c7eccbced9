"""Finds or keeps on a node what a trial needs of the disk: the decoded data set, and folders of its own.

Guarantees: a data set is written once per node, by whoever comes first, and only the one with the plan's fingerprint is
used. What an agent that was killed has left behind is removed by the next one.
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
    """Return the decoded data set, to be sent; empty where it is not on this machine."""
    wanted = [decoded_cache.INFO_FILE, *(f"{name}.npy" for name in decoded_cache.ARRAYS)]
    found = list_files(Path(dataset.directory))
    if not all(name in found for name in wanted):
        return {}
    return pack({name: found[name] for name in wanted})


def find_dataset(dataset: DatasetInfo) -> DatasetInfo | None:
    """Return the data set as it lies on this node; None where its cache has none with the fingerprint."""
    folders = [Path(dataset.directory)]
    if dataset.name in CATALOG:
        folders += decoded_cache.entry_folders(CATALOG[dataset.name])
    for folder in folders:
        if _fingerprint(folder) == dataset.fingerprint and _is_whole(folder, dataset):
            return replace(dataset, directory=str(folder))
    return None


def keep_dataset(dataset: DatasetInfo, parcel: Parcel) -> DatasetInfo:
    """Return the data set as it lies on this node, after writing it into its cache if it is not there yet.

    Args:
        parcel: of `pack_dataset`; empty: the driver has none, and the trial will say what it misses.

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
    """Give a folder of this process on the node's disk, which is removed behind it; its lock says that it is used."""
    base = _base() / "agents"
    base.mkdir(parents=True, exist_ok=True)
    mine = f"{socket.gethostname()}-"
    with hold_lock(base / ".lock"):  # a neighbour would take a new one for left over
        remove_left_over(base.glob(f"{mine}*"))
        folder = Path(tempfile.mkdtemp(dir=base, prefix=mine))
        lock = take_lock(folder / LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def shared_folder(study: str) -> Path:
    """Return the folder in which the trials of a study share compiled programs and measured batches on this node."""
    return _base() / "studies" / study


def _base() -> Path:
    """Return a folder of this user on this node: beside the data sets."""
    return Path(os.path.abspath(decoded_cache.cache_folder().parent)) / "ray"  # noqa: PTH100 (links stay as they are)
