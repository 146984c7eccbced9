"""A search whose trials run in its own process stops at a breakpoint in a search space."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.shell import PATIENCE_SECONDS, SMALL_SPACE


def test_a_breakpoint_in_a_space_opens_the_debugger_in_the_searchs_own_process(tmp_path: Path) -> None:
    (tmp_path / "search_spaces").mkdir()
    text = SMALL_SPACE.replace("    import keras\n", "    import keras, os\n    breakpoint()\n")
    (tmp_path / "search_spaces/small.py").write_text(text)
    words = [
        "search",
        "--dataset",
        "digits",
        "--trials",
        "1",
        "--explore-only",
        "--engine",
        "thread",
        "--space",
        "small",
    ]
    small = ["--set", "exploration_epochs=1", "--set", "train_limit=200", "--set", "hang_minutes=0.0001"]
    with subprocess.Popen(
        [sys.executable, "-m", "mloptimizer", *words, *small],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as search:
        said, _ = search.communicate("p f'built in {os.getpid()}'\np params['units']\nc\n", timeout=PATIENCE_SECONDS)
    assert search.returncode == 0, said
    assert f"built in {search.pid}" in said
    result = json.loads((tmp_path / "metrics_data/digits/trial_00000/result.json").read_text())
    assert (result["outcome"], result["failure"]) == ("completed", None)
