"""Searches that must give the same figures, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EVALUATION = "metrics_data/digits/test_evaluation.json"


def search(workspace: Path, *words: str) -> None:
    command = [sys.executable, "-m", "mloptimizer", "search", "--dataset", "digits", "--workspace", str(workspace)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


def figures(workspace: Path) -> list[dict[str, Any]]:
    """Return every epoch's figures but those that are times."""
    times = {"seconds", "ended_utc", "images_per_second", "data_wait_percent"}
    files = sorted((workspace / "metrics_data" / "digits").glob("*/epochs.jsonl"))
    epochs = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [{name: value for name, value in epoch.items() if name not in times} for epoch in epochs]


def test_two_reproducible_searches_give_the_same_figures_to_the_last_bit(tmp_path: Path) -> None:
    for name in ("first", "second"):
        settings = ("exploration_epochs=2", "augmentation=search", "hall_of_fame_epochs=1", "train_limit=400")
        words = ("--trials", "2", *(word for setting in settings for word in ("--set", setting)))
        search(tmp_path / name, "--profile", "reproducible", *words)
    first, second = (figures(tmp_path / name) for name in ("first", "second"))
    assert len(first) == 5
    assert first == second
    readings = [json.loads((tmp_path / name / EVALUATION).read_text())["readings"][0] for name in ("first", "second")]
    for reading in readings:
        del reading["read_utc"]
    assert readings[0] == readings[1]
    assert "determinism: on" in (tmp_path / "first" / "debug_strategy.log").read_text()


def test_trials_share_what_xla_has_compiled(tmp_path: Path) -> None:
    space = tmp_path / "search_spaces" / "one.py"
    space.parent.mkdir()
    space.write_text(
        "def sample(trial, dataset):\n    return {'learning_rate': trial.suggest_float('rate', 1e-4, 1e-2)}\n\n\n"
        "def build(params, dataset):\n    import keras\n    from keras import layers\n\n"
        "    images = keras.Input(dataset.input_shape)\n"
        "    x = layers.Dense(16, activation='gelu')(layers.Flatten()(images))\n"
        "    return keras.Model(images, layers.Dense(dataset.classes)(x))\n"
    )
    words = ("--space", "one", "--explore-only", "--workers", "1", "--set", "exploration_epochs=1", "--set", "xla=on")
    cache = tmp_path / "metrics_data" / "digits" / "cache" / "xla"
    search(tmp_path, "--trials", "1", *words)
    compiled = {path.name for path in cache.iterdir()}
    search(tmp_path, "--study", "digits", "--trials", "3", *words)
    assert compiled and {path.name for path in cache.iterdir()} == compiled
