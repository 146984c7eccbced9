"""Removes the folders of processes that are gone: each holds a lock in its folder, which the system releases."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from mloptimizer.core.locks import is_abandoned

LOCK = "driver.lock"  # in each folder


def remove_left_over(folders: Iterable[Path]) -> None:
    """Remove those of the folders whose owners are gone."""
    for folder in folders:
        if is_abandoned(folder / LOCK):
            shutil.rmtree(folder, ignore_errors=True)
