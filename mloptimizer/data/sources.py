"""Finds a data set's files on this machine, and downloads them to where Keras keeps its own.

It never changes, moves, overwrites or deletes a person's file. A download appears under its name only if its hash is
right and nothing else has that name.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.data.catalog import Dataset, Download, FormKind

TEMPORARY_PREFIX = ".mloptimizer-download-"
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Source:
    """Files that contain the data set; all but those in `missing` are on this machine."""

    kind: FormKind
    files: tuple[Path, ...]
    missing: tuple[Path, ...] = ()


def keras_folder() -> Path:
    """Return the folder in which Keras keeps data sets: `$KERAS_HOME/datasets`, else `~/.keras/datasets`."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(os.path.abspath(Path(home).expanduser())) / "datasets"  # noqa: PTH100 (keeps links as they are)


def source_folder(dataset: Dataset) -> Path:
    """Return the folder that contains the data set's files. Raises UsageError: scikit-learn, its source, is missing."""
    if dataset.downloads:
        return keras_folder()
    package = importlib.util.find_spec("sklearn")  # finds the folder, imports nothing
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            f"--dataset {dataset.name}: it is part of scikit-learn, which is missing. Install scikit-learn."
        )
    return Path(package.submodule_search_locations[0])


def locate(dataset: Dataset) -> Source | None:
    """Return the first form that is on this machine whole, else the first that is there in part, else None."""
    folder = source_folder(dataset)
    found = []
    for form in dataset.forms:
        files = tuple(folder / file for file in form.files)
        missing = tuple(file for file in files if not os.path.isfile(file))  # noqa: PTH113 (no error without permission)
        if len(missing) < len(files):
            found.append(Source(form.kind, files, missing))
    return min(found, key=lambda source: bool(source.missing), default=None)


def can_complete(source: Source | None, dataset: Dataset) -> bool:
    """Return whether a download provides all missing files without touching existing ones."""
    offered = {keras_folder() / item.path for item in dataset.downloads}
    return bool(offered) and (source is None or (bool(source.missing) and offered.issuperset(source.missing)))


def download(dataset: Dataset) -> None:
    """Download the missing files, under the names that Keras uses, so that both share them.

    Raises:
        RunError: no network, or a wrong hash; the message says which file to put where.
        UsageError: the folder cannot be written.
    """
    folder = keras_folder()
    for item in dataset.downloads:
        target = folder / item.path
        if os.path.lexists(target):
            continue
        try:
            _fetch(item, target, f"put {dataset.by_hand} into {folder}")
        except OSError as error:
            raise UsageError(
                f"{target}: cannot be written ({error.strerror or error}). "
                "Set KERAS_HOME to a folder that you may write."
            ) from error


def _fetch(item: Download, target: Path, by_hand: str) -> None:
    import pooch  # slow to import and rarely needed
    import requests

    pooch.get_logger().setLevel("CRITICAL")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, TEMPORARY_PREFIX)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY_PREFIX) as temporary:
        try:
            path = Path(pooch.retrieve(item.url, item.sha256, fname=target.name, path=temporary))
        except requests.RequestException as error:
            raise RunError(
                f"{target.parent}: {target.name} is not there, and {item.url} cannot be reached "
                f"({type(error).__name__}). Connect to the internet, or {by_hand}."
            ) from error
        except ValueError as error:
            raise RunError(
                f"{item.url}: the download is not the expected file (wrong sha256), and was discarded. "
                f"Try again later, or {by_hand}."
            ) from error
        path.chmod(0o644)
        _place(path, target)


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove temporary folders that killed processes left: those with our prefix that are a day old."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process removed it
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _place(path: Path, target: Path) -> None:
    """Give the file its name if the name is free; another process may have placed the same file meanwhile."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not os.path.lexists(target):
            path.rename(target)
