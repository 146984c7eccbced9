"""Prevents imports from the current folder, whose files may have the names of Python's or a library's modules.

Python looks there first if it runs with `-m` or `-c`, as multiprocessing does, or if PYTHONPATH has an empty entry.
Folders that a person names in PYTHONPATH stay.
"""

import os
import sys
from pathlib import Path


def guard_children() -> None:
    """Keep child processes from importing from the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if kept := [entry for entry in entries if not _is_current(entry)]:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)


def leave_current_folder() -> None:
    """Import no more from the current folder unless the person has named it; the same for child processes."""
    named = os.environ.get("PYTHONPATH", "")
    by_option = not sys.flags.safe_path and "-m mloptimizer" in " ".join(sys.orig_argv)
    here, root = Path.cwd(), Path(__file__).parents[2]
    if by_option or (named and any(map(_is_current, named.split(os.pathsep)))):
        sys.path[:] = [entry for entry in sys.path if not _is_current(entry) and Path(entry) != here]
        if here == root:  # the package is not installed and lies here
            sys.path.append(str(root))
    guard_children()
    if here == root and str(root) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(root))))


def _is_current(entry: str) -> bool:
    return entry in ("", os.curdir)
