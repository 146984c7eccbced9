"""Whatever a search space's code does to its process is put back, and it is handed copies."""

import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.spaces.space_files import RandomSuggest, load_space, sample_params

TEXT = """import os, signal, sys, tempfile, warnings
{top}
def sample(trial, dataset):
    {body}
    return {{}}
def build(params, dataset):
    return None
"""
CHANGES = [
    "os.chdir('/')",
    "os.environ['KERAS_BACKEND'] = 'jax'; os.environ.pop('PATH')",
    "os.environ.clear()",
    "sys.path.insert(0, '/nowhere')",
    "sys.path = []; sys.argv = ['x']; sys.argv.append('y')",
    "sys.argv.clear()",
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_DFL)",
    "tempfile.tempdir = '/nowhere'",
    "warnings.simplefilter('error')",
    "sys.setrecursionlimit(10_000)",
    "sys.stdout = sys.stderr = None",
    "sys.excepthook = print",
]


def look() -> dict[str, Any]:
    return {
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "temporary folder": tempfile.gettempdir(),
        "warnings": list(warnings.filters),
        "recursion": sys.getrecursionlimit(),
        "outputs": (sys.stdout, sys.stderr, sys.excepthook),
    }


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_space_changes_is_put_back(change: str, make_dataset: Callable[..., DatasetInfo]) -> None:
    before = look()
    space = load_space("own", TEXT.format(top=change, body=""), "own.py")
    assert look() == before
    space = load_space("own", TEXT.format(top="", body=change), "own.py")
    sample_params(space, RandomSuggest(0), make_dataset())
    assert look() == before


def test_a_timer_that_a_space_starts_does_not_end_the_search(make_dataset: Callable[..., DatasetInfo]) -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 0)  # of the test's own deadline
    try:
        space = load_space("own", TEXT.format(top="", body="signal.alarm(3600)"), "own.py")
        sample_params(space, RandomSuggest(0), make_dataset())
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_it_is_put_back_where_the_space_fails_too(make_dataset: Callable[..., DatasetInfo]) -> None:
    before = look()
    space = load_space("own", TEXT.format(top="", body="os.chdir('/'); sys.exit('enough')"), "own.py")
    with pytest.raises(UsageError, match=r"own\.py, line 4: SystemExit: enough"):
        sample_params(space, RandomSuggest(0), make_dataset())
    assert look() == before


@pytest.mark.parametrize(
    "close", ["sys.stdout.close()", "with sys.stderr: pass", "print('kept', flush=True); sys.stdout.close()"]
)
def test_the_outputs_stay_open(
    close: str, make_dataset: Callable[..., DatasetInfo], capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space("own", TEXT.format(top="", body=close), "own.py")
    sample_params(space, RandomSuggest(0), make_dataset())
    print("after")
    print("after", file=sys.stderr)
    said = capsys.readouterr()
    assert said.out.endswith("after\n") and said.err == "after\n"


def test_a_folder_that_is_gone_is_no_reason_to_fail(
    make_dataset: Callable[..., DatasetInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    space = load_space("own", TEXT.format(top="", body=""), "own.py")
    assert sample_params(space, RandomSuggest(0), make_dataset()) == {}


def test_sample_cannot_change_the_data_set(make_dataset: Callable[..., DatasetInfo]) -> None:
    dataset = make_dataset()
    space = load_space("own", TEXT.format(top="", body="object.__setattr__(dataset, 'classes', 3)"), "own.py")
    sample_params(space, RandomSuggest(0), dataset)
    assert dataset.classes == 10
