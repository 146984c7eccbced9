"""Every error that a person may see, and its exit code.

    MloptimizerError            one line for the person: ``place: what is wrong. What is possible.``
    ├── UsageError              exit code 2: the person can fix it: a wrong name, value, file or folder
    └── RunError                exit code 1: the run failed: no network, no trial succeeded, a broken machine

A failed trial is not an error but a value: see `mloptimizer.core.nouns.Failure`.
"""

import difflib
from collections.abc import Iterable


class MloptimizerError(Exception):
    """An error with a text for the person; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(MloptimizerError):
    """The person can fix it: an unknown name, an impossible value, a missing or unreadable file."""

    exit_code = 2


class RunError(MloptimizerError):
    """The request was sensible, but it failed."""


_LISTED = 20  # most names that an error lists


def unknown_name(place: str, kind: str, name: str, known: Iterable[str], listed_by: str = "") -> UsageError:
    """Return the error for an unknown name: it suggests the nearest name and lists all of them.

    If there are many, it suggests the nearest three and names the command that lists all.

    >>> print(unknown_name("--space", "search space", "resnt", ["cnn", "resnet"]))
    --space: there is no search space 'resnt'. Did you mean 'resnet'? Known: cnn, resnet.
    """
    names = sorted(known)
    word, few = name.lower(), len(names) <= _LISTED
    near = difflib.get_close_matches(word, names, n=1 if few else 3)
    if not near and not few:
        near = [known_name for known_name in names if word and word in known_name][:3]
    hint = f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    listing = f"Known: {', '.join(names) or 'none yet'}" if few else f"There are {len(names)}"
    more = f": {listed_by}" if listed_by and not few else ""
    return UsageError(f"{place}: there is no {kind} '{name}'.{hint} {listing}{more}.")
