"""Keeps the checkpoints of a trial at an fsspec URL (file, s3, gs, …) that every node reaches.

Guarantees: a file is moved to its name when it is whole, and checkpoints hold checksums of their own, so that one which
a kill has torn is passed over. Credentials are those of the node: none travel with a plan.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mloptimizer.errors import RunError, UsageError
from mloptimizer.records import TrialPlan


class RemoteFolder:
    """The place of one trial's checkpoints."""

    def __init__(self, url: str, place: str) -> None:
        """Name the place; nothing is made yet.

        Raises:
            UsageError: fsspec, or its part for this kind of URL, is not installed; or the URL is none.
        """
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"checkpoint_url: {error}. Possible: file, s3 (pip install s3fs), gs (gcsfs).") from error
        self._root: str = f"{root.rstrip('/')}/{place}"

    def fetch(self, folder: Path) -> None:
        """Copy what is there into the folder.

        Raises:
            RunError: it cannot be read.
        """
        try:
            if not self._files.exists(self._root):
                return
            self._files.invalidate_cache()
            for path in self._files.find(self._root):
                name = PurePosixPath(path).name
                if not name.startswith("."):
                    folder.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(path, str(folder / name))
        except Exception as error:
            raise self._error(error) from error

    def keep(self, new: Iterable[Path], names: Iterable[str]) -> None:
        """Copy the new files there, and remove those that are not among the names.

        Raises:
            RunError: it cannot be written.
        """
        kept = set(names)
        try:
            self._files.makedirs(self._root, exist_ok=True)
            for path in new:
                unfinished = f"{self._root}/.{path.name}.part"
                try:
                    self._files.put_file(str(path), unfinished)
                except FileNotFoundError:
                    continue  # a newer one took its place meanwhile
                self._files.mv(unfinished, f"{self._root}/{path.name}")
            self._files.invalidate_cache()
            for there in self._files.find(self._root):
                if PurePosixPath(there).name not in kept:
                    self._files.rm_file(there)
        except Exception as error:
            raise self._error(error) from error

    def remove(self) -> None:
        """Remove all of it.

        Raises:
            RunError: it cannot be removed.
        """
        try:
            if self._files.exists(self._root):
                self._files.rm(self._root, recursive=True)
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Any) -> RunError:
        return RunError(f"checkpoint_url: {self._root}: {type(error).__name__}: {' '.join(str(error).split())}")


def open_remote(plan: TrialPlan) -> RemoteFolder | None:
    """Return where the plan's checkpoints are kept, None where that is the driver's disk."""
    url = plan.settings.checkpoint_url
    return RemoteFolder(url, f"{plan.study}/{Path(plan.directory).name}") if url else None
