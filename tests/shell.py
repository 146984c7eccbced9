"""Runs commands as a person types them, in real processes, and reads what they leave."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil

PATIENCE_SECONDS = 300
SMALL = ["--set", "exploration_epochs=2", "--set", "hall_of_fame_epochs=2", "--set", "train_limit=400"]


SMALL_SPACE = '''"""A small perceptron: many short epochs, so that kills meet it everywhere."""


def sample(trial, dataset):
    return {"units": trial.suggest_int("units", 4, 64), "learning_rate": trial.suggest_float("rate", 1e-3, 1e-2)}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    hidden = layers.Dense(params["units"], activation="relu")(layers.Flatten()(images))
    return keras.Model(images, layers.Dense(dataset.classes)(layers.Dropout(0.2)(hidden)))
'''


def write_small_space(workspace: Path) -> None:
    """Write a search space named small into the workspace: its models are built and traced in a moment."""
    (workspace / "search_spaces").mkdir()
    (workspace / "search_spaces" / "small.py").write_text(SMALL_SPACE)


def start(*words: str, cwd: Path, output: IO[str] | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command; what it prints goes into the given file, or else into two pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "mloptimizer", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=output or subprocess.PIPE,
        stderr=subprocess.STDOUT if output else subprocess.PIPE,
        text=True,
    )


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def results(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trial_*/result.json"))]


def plans(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trial_*/plan.json"))]


def trials_of(driver: int) -> list[psutil.Process]:
    """Return the processes in which trials run: those that the driver's fork server has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [trial for server in psutil.Process(driver).children() for trial in server.children()]
    return []
