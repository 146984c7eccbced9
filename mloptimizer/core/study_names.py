"""What a study may be called: its name is a folder's and an Optuna study's."""

import re

from mloptimizer.core.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
HALL_OF_FAME_SUFFIX = "-hall-of-fame"  # of the Optuna study that holds a study's second phase


def check_study_name(name: str) -> str:
    """Return the name if it can be a folder's name and an Optuna study's.

    Raises:
        UsageError: it holds a path separator or another character that has a meaning to some file system, or ends in
            the suffix that the second phase uses.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"study name {name!r}: is not possible. Possible: up to 100 letters, digits, '_', '-' and single '.', "
            "starting with a letter or digit."
        )
    if name.endswith(HALL_OF_FAME_SUFFIX):
        raise UsageError(f"study name {name!r}: '{HALL_OF_FAME_SUFFIX}' is reserved. Choose a name without it.")
    return name
