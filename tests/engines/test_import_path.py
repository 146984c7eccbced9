"""Files of the current folder that are named like modules of Python or of a library are never imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mloptimizer

ROOT = Path(mloptimizer.__file__).parents[1]
NAMES = ("random", "logging", "types", "keras", "tensorflow", "click", "psutil", "sitecustomize", "filelock", "pickle")
SEARCH = """
import sys
from mloptimizer.engines.process.process_engine import ProcessEngine
from tests.engines.contract import SLOTS, act, bare_plan, collect, results_of

if __name__ == "__main__":
    engine = ProcessEngine(SLOTS, act, start_method=sys.argv[1], preload=["random", "filelock"])
    engine.start(bare_plan(0, {}, "."), SLOTS[0])
    print(results_of(collect(engine, 1))[0].outcome)
    engine.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder full of such files: each leaves a mark when it is run."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    return folder


def run_python(folder: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    environment["PYTHONPATH"] = f"{path}{ROOT}"
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_no_process_of_a_search_imports_them(tmp_path: Path, folder: Path, method: str) -> None:
    (tmp_path / "search.py").write_text(SEARCH)
    done = run_python(folder, str(tmp_path / "search.py"), method)
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert done.stdout.strip() == "completed", done.stderr


@pytest.mark.parametrize("way", ["as a module", "with an empty entry in PYTHONPATH"])
def test_the_command_does_not_import_them(tmp_path: Path, folder: Path, way: str) -> None:
    for name in ("sitecustomize", "types"):
        (folder / f"{name}.py").unlink()  # Python imports these itself, before any program
    (tmp_path / "mloptimizer").write_text("from mloptimizer.cli.main import main\nmain()\n")
    if way == "as a module":
        done = run_python(folder, "-m", "mloptimizer", "spaces")
    else:
        done = run_python(folder, str(tmp_path / "mloptimizer"), "spaces", path=":.:")
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert done.returncode == 0, done.stderr
