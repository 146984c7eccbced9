"""Runs real searches for the benchmarks, and reads how long their trials took."""

import os
import subprocess
import sys
import time
from pathlib import Path

from mloptimizer.core.nouns import Phase
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

STUDY = "bench"


def timed_search(workspace: Path, *arguments: str) -> float:
    """Run ``mloptimizer search`` in the workspace; return its wall time in seconds."""
    command = [
        sys.executable,
        "-m",
        "mloptimizer",
        "search",
        "--study",
        STUDY,
        "--workspace",
        str(workspace),
        *arguments,
    ]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    return time.perf_counter() - started


def trial_seconds(workspace: Path, *parts: str) -> list[float]:
    """Return the seconds that each exploration trial spent in the given parts, such as build and fit."""
    trials = MetricsStore(Workspace(workspace), STUDY).trials(Phase.EXPLORATION)
    return [sum(trial.result["timings"].get(part, 0.0) for part in parts) for trial in trials]


def import_seconds() -> float:
    """Return the wall time in which a fresh process starts and imports what the fork server imports."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import mloptimizer.training.preload, mloptimizer.training.worker"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started
