"""Keeps files of the current folder from being imported that are named like modules of Python or of a library.

Python looks there first where it runs `-m` or `-c`, as multiprocessing starts its processes, and where PYTHONPATH has
an empty entry. Folders that a person names in PYTHONPATH are left alone.
"""

import os
import sys
from pathlib import Path


def guard_children() -> None:
    """Let Python processes that are started from now on import nothing from the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if kept := [entry for entry in entries if not _is_current(entry)]:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)


def leave_current_folder() -> None:
    """Import nothing more from the current folder, where a person has not named it; the same for child processes."""
    named = os.environ.get("PYTHONPATH", "")
    by_option = not sys.flags.safe_path and "-m mloptimizer" in " ".join(sys.orig_argv)
    here, root = Path.cwd(), Path(__file__).parents[2]
    if by_option or (named and any(map(_is_current, named.split(os.pathsep)))):
        sys.path[:] = [entry for entry in sys.path if not _is_current(entry) and Path(entry) != here]
        if here == root:  # not installed: this very package is there
            sys.path.append(str(root))
    guard_children()
    if here == root and str(root) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(root))))


def _is_current(entry: str) -> bool:
    return entry in ("", os.curdir)
