"""Checks study names, which are also names of folders and of Optuna studies."""

import re

from mloptimizer.core.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
HALL_OF_FAME_SUFFIX = "-hall-of-fame"  # of the Optuna study for the second phase


def check_study_name(name: str) -> str:
    """Return the name. Raises UsageError if some file system may not allow it, or the second phase uses its suffix."""
    if not _NAME.fullmatch(name) or ".." in name:
        possible = "up to 100 letters, digits, '_', '-' and single '.', starting with a letter or digit"
        raise UsageError(f"study name {name!r}: is not possible. Possible: {possible}.")
    if name.endswith(HALL_OF_FAME_SUFFIX):
        raise UsageError(f"study name {name!r}: '{HALL_OF_FAME_SUFFIX}' is reserved. Choose a name without it.")
    return name
