"""Removes the folders of processes that are gone: each holds a lock in its folder, which the system frees with it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "driver.lock"  # in each folder


def hold(folder: Path) -> IO[str]:
    """Say that this process uses the folder, for as long as the file that is returned stays open."""
    lock = (folder / LOCK).open("w")
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def remove_left_over(folders: Iterable[Path]) -> None:
    """Remove those of the folders that were held by processes that are gone."""
    for folder in folders:
        if _is_left_over(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or just being made
        return False
    return True
