from pathlib import Path

import pytest

from mloptimizer.core.trial_files import WORKER_LOG
from mloptimizer.engines.process.deaths import explain_death
from tests.engines.contract import bare_plan

IMPORT = 'I0000 oneDNN is on\nTraceback (most recent call last):\n  File "a.py", line 1, in <module>\nNoModule: jax\n'
FLAGS = "E0000 00:00:17 1 cuda.cc:52] no CUDA\nF0000 00:00:17 1 flags.cc:234] Unknown flag in XLA_FLAGS: --nonsense\n"


@pytest.mark.parametrize(
    ("log", "code", "says"),
    [
        (IMPORT, 1, "NoModule: jax"),
        (FLAGS, -6, "Unknown flag in XLA_FLAGS: --nonsense"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1:\n  File a\n", -11, "Segmentation fault"),
        ("a space printed this\n", 1, "exit code 1;"),
    ],
)
def test_a_dead_workers_last_error_is_in_the_message(tmp_path: Path, log: str, code: int, says: str) -> None:
    plan = bare_plan(0, {}, str(tmp_path))
    path = Path(plan.directory) / WORKER_LOG
    path.parent.mkdir()
    path.write_text(log)
    assert says in explain_death(plan, code, 0).message
