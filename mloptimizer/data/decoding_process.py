"""Decodes a data set in a short-lived process of its own, so that the caller's memory stays small.

The child gets the caller's import path and environment, and answers with one line of JSON. It ignores Ctrl-C; the
caller then ends it. Either way it removes its temporary files.
"""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.data import decoded_cache
from mloptimizer.data.catalog import CATALOG, Dataset
from mloptimizer.data.decoded_cache import Entry

_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; from mloptimizer.data.decoding_process import decode; decode(sys.argv[1])"
)
_END_SECONDS = 5


def make_entry_in_child(dataset: Dataset) -> Entry:
    """Decode the data set into the cache, after downloading missing files, and return the entry.

    Raises UsageError and RunError as `decoded_cache.make_entry`, and RunError if the child dies.
    """
    command = [sys.executable, "-P", "-c", _CHILD, dataset.name, *sys.path]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace")
    try:
        answer, errors = child.communicate()
    except BaseException:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return _parse_answer(answer, errors, child.returncode, dataset)


def _parse_answer(answer: str, errors: str, code: int, dataset: Dataset) -> Entry:
    with contextlib.suppress(ValueError):
        values = json.loads(answer)
        if "directory" in values:
            return Entry(**{**values, "directory": Path(values["directory"])})
        raise {UsageError.__name__: UsageError, RunError.__name__: RunError}[values["error"]](values["message"])
    how = (
        f"was killed by signal {-code}, perhaps because memory ran out" if code < 0 else f"ended with exit code {code}"
    )
    last = errors.strip().splitlines()[-1:] or ["it printed nothing"]
    raise RunError(f"--dataset {dataset.name}: the process that decodes it {how} ({last[0]}). Run the command again.")


def decode(name: str) -> None:
    """Decode the data set and write the answer for `make_entry_in_child` to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    try:
        entry = decoded_cache.make_entry(CATALOG[name])
        answer: dict[str, str | int] = {**vars(entry), "directory": str(entry.directory)}
    except MloptimizerError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer))


def _leave(*_: object) -> None:
    """End with an exception, so that temporary files are removed, and ignore further signals meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)
