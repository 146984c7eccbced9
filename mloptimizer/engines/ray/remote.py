"""Keeps the checkpoints of a trial at an fsspec URL (file, s3, gs, …) that every node reaches.

Guarantees: a file is moved to its name when it is whole, and checkpoints contain checksums, so one that a kill has torn
is skipped. Credentials are those of the node: none travel with a plan.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import TrialPlan
from mloptimizer.core.words import in_a_line


class RemoteFolder:
    """The place of one trial's checkpoints, in which each attempt has a folder of its own.

    So an attempt that was cut off but keeps training cannot remove what its successor keeps.
    """

    def __init__(self, url: str, place: str, attempt: int) -> None:
        """Raise UsageError if it is not a URL, or fsspec or its part for this kind of URL is not installed."""
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(url)
        except Exception as error:
            raise UsageError(f"checkpoint_url: {error}. Possible: file, s3 (pip install s3fs), gs (gcsfs).") from error
        self._root: str = f"{root.rstrip('/')}/{place}"
        self._attempt, self._own = attempt, f"{self._root}/{_name_folder(attempt)}"

    def fetch(self, folder: Path) -> None:
        """Copy into the folder what the last attempt that kept anything left; raise RunError if that fails."""
        with self._errors():
            if not self._files.exists(self._root):
                return
            self._files.invalidate_cache()
            there = [path for path in self._files.find(self._root) if not PurePosixPath(path).name.startswith(".")]
            newest = max((PurePosixPath(path).parent.name for path in there), default="")
            for path in map(PurePosixPath, there):
                if path.parent.name == newest:
                    folder.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(str(path), str(folder / path.name))

    def keep(self, new: Iterable[Path], names: Iterable[str]) -> None:
        """Copy the new files there; remove the attempt's files that are not among the names, and earlier attempts.

        Raises:
            RunError: the place cannot be written.
        """
        kept = set(names)
        with self._errors():
            self._files.makedirs(self._own, exist_ok=True)
            for path in new:
                unfinished = f"{self._own}/.{path.name}.part"
                try:
                    self._files.put_file(str(path), unfinished)
                except FileNotFoundError:
                    continue  # a newer checkpoint has replaced it
                self._files.mv(unfinished, f"{self._own}/{path.name}")
            self._files.invalidate_cache()
            for there in self._files.find(self._own):
                if PurePosixPath(there).name not in kept:
                    self._files.rm_file(there)
            self._remove(_name_folder(attempt) for attempt in range(1, self._attempt))

    def remove(self) -> None:
        """Remove all of it; raise RunError if that fails."""
        with self._errors():
            self._remove([""])

    def remove_attempts(self) -> None:
        """Remove what this attempt and earlier ones kept; raise RunError if that fails."""
        with self._errors():
            self._remove(_name_folder(attempt) for attempt in range(1, self._attempt + 1))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if self._files.exists(folder := f"{self._root}/{name}".rstrip("/")):
                self._files.rm(folder, recursive=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn any error of the file system's library into one line."""
        try:
            yield
        except Exception as error:
            raise RunError(f"checkpoint_url: {self._root}: {type(error).__name__}: {in_a_line(error)}") from error


def _name_folder(attempt: int) -> str:
    return f"attempt_{attempt:05d}"  # names sort like the attempts


def open_remote(plan: TrialPlan) -> RemoteFolder:
    """Return where the plan's checkpoints are kept; its seed distinguishes studies of the same name.

    Raises as `RemoteFolder`.
    """
    place = f"{plan.study}/{Path(plan.directory).name}_{plan.seed:08x}"
    return RemoteFolder(plan.settings.checkpoint_url, place, plan.attempt)


def check_url(url: str) -> None:
    """Raise UsageError if it is not a URL, or a library that it needs is not installed here; writes nothing."""
    if "://" not in url:
        raise UsageError(f"checkpoint_url: '{url}' is not a URL. Possible: file:///FOLDER, s3://BUCKET/PATH or gs://…")
    RemoteFolder(url, "", 1)
