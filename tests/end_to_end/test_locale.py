"""The program works the same whatever the locale says of texts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SPACE = """# größer ✓
def sample(trial, dataset):
    return {"width": trial.suggest_int("width", 1, 9)}

def build(params, dataset):
    raise ValueError("zu groß")
"""


@pytest.mark.parametrize("command", ["spaces", "settings"])
@pytest.mark.parametrize("words", [{}, {"PYTHONIOENCODING": "ascii"}])
def test_a_space_and_a_folder_with_umlauts_are_read_where_the_locale_is_ascii(
    tmp_path: Path, words: dict[str, str], command: str
) -> None:
    folder = tmp_path / "Übung"
    (folder / "search_spaces").mkdir(parents=True)
    (folder / "search_spaces" / "own.py").write_text(SPACE, encoding="utf-8")
    (folder / "system_parameters.py").write_text("# ünïcode\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mloptimizer", command, "--workspace", str(folder)],
        env={**os.environ, **ASCII, **words},
        capture_output=True,
        encoding="ascii",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
