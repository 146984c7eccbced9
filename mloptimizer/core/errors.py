"""Every error that a person may see, and its exit code.

    MloptimizerError            one line for the person: ``place: what is wrong. What is possible.``
    ├── UsageError              exit code 2: the person can mend it: a wrong name, value, file or folder
    └── RunError                exit code 1: the run failed: no network, no trial succeeded, a broken machine

A failed trial is not an error but a value: see `mloptimizer.core.nouns.Failure`.
"""

import difflib
from collections.abc import Iterable


class MloptimizerError(Exception):
    """An error whose text is meant for the person; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(MloptimizerError):
    """The person can mend it: an unknown name, an impossible value, a missing or unreadable file."""

    exit_code = 2


class RunError(MloptimizerError):
    """What was asked for was sensible but could not be done."""

    exit_code = 1


def unknown_name(place: str, kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with the nearest known one and the whole list.

    >>> print(unknown_name("--space", "search space", "resnt", ["cnn", "resnet"]))
    --space: there is no search space 'resnt'. Did you mean 'resnet'? Known: cnn, resnet.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listing = ", ".join(names) if names else "none yet"
    return UsageError(f"{place}: there is no {kind} '{name}'.{hint} Known: {listing}.")
