"""Whole searches from the shell that meet a fault: a full disk, a server that is away, a hanging trial, a deadline, a kill."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from mloptimizer.study.storage import open_storage
from tests.postgresql import Server
from tests.shell import PATIENCE_SECONDS, results, run, start, trials_of, wait_for
from tests.study.small_disk import fill, run_on_small_disk

needs_small_disk = pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own, as Linux does")

DENSE = '''"""Networks of one layer."""

import ctypes
import subprocess
import time


def sample(trial, dataset):
    fault = trial.suggest_categorical("fault", ["none", "sleep", "gil"])
    return {"width": trial.suggest_int("width", 256, 512), "fault": fault, "optimizer": "sgd", "learning_rate": 0.01}


def build(params, dataset):
    import keras

    if params["fault"] != "none":
        child = subprocess.Popen(["sleep", "600"])
        print("child", child.pid, flush=True)
        if params["fault"] == "gil":
            ctypes.PyDLL(None).sleep(600)
        time.sleep(600)
    images = keras.Input(dataset.input_shape)
    x = keras.layers.Dense(params["width"], "relu")(keras.layers.Flatten()(images))
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(images, keras.layers.Dense(dataset.classes)(x))
'''


class Search:
    """A search that runs in a process of its own; what it prints is kept outside of its workspace."""

    def __init__(self, workspace: Path, printed: Path, *words: str) -> None:
        self.workspace, self.printed = workspace, printed
        with printed.open("w") as output:
            self.process = start(*words, cwd=workspace, output=output)
        self.study = workspace / "metrics_data" / "s"

    def text(self) -> str:
        return " ".join(self.printed.read_text().split())

    def wait_for(self, words: str) -> None:
        wait_for(lambda: words in self.text() or self.process.poll() is not None)
        assert words in self.text()

    def wait_for_epoch(self, epoch: int = 1, trial: int = 0) -> None:
        path = self.study / f"trial_{trial:05d}/epochs.jsonl"
        wait_for(lambda: len(lines_of(path)) >= epoch or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)
