"""A search on a machine whose memory really runs out: the system refuses it to TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# A model with large activations, and a limit to the memory of the process that trains it, as far as there is one.
SPACE = """
def sample(trial, dataset):
    return {"learning_rate": trial.suggest_float("rate", 1e-3, 1e-2)}


def build(params, dataset):
    import resource
    from pathlib import Path

    import keras
    from keras import layers, ops

    images = keras.Input(dataset.input_shape)
    x = ops.silu(ops.tile(layers.Dense(4)(images), (1, 1, 1, 4096)))
    model = keras.Model(images, layers.Dense(dataset.classes)(layers.GlobalAveragePooling2D()(x)))
    if LIMIT_MB:
        status = Path("/proc/self/status").read_text().splitlines()
        used = next(int(line.split()[1]) for line in status if line.startswith("VmData")) // 1024
        resource.setrlimit(resource.RLIMIT_DATA, ((used + LIMIT_MB) << 20, resource.RLIM_INFINITY))
    return model
"""


def search(workspace: Path, limit_mb: int, *words: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a search of one trial; return how it ended, and the trial's folder."""
    space = workspace / "search_spaces" / "large.py"
    space.parent.mkdir(parents=True)
    space.write_text(SPACE.replace("LIMIT_MB", str(limit_mb)))
    command = [sys.executable, "-m", "mloptimizer", "search", "--dataset", "digits", "--workspace", str(workspace)]
    settings = ("exploration_epochs=1", "train_limit=160", "batch_size=64", *words)
    command += ["--space", "large", "--trials", "1", "--explore-only", "--seed", "1", "--workers", "1"]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done, workspace / "metrics_data" / "digits" / "trial_00000"


def losses(trial: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (trial / "epochs.jsonl").read_text().splitlines()]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_a_model_that_does_not_fit_is_trained_in_smaller_parts_with_the_same_result(tmp_path: Path) -> None:
    free, plenty = search(tmp_path / "plenty", 0)
    assert free.returncode == 0, free.stderr
    tight, little = search(tmp_path / "little", 700)
    assert tight.returncode == 0, tight.stderr + tight.stdout
    plan = read(little / "plan.json")
    assert plan["attempt"] > 1
    assert plan["accumulation_steps"] > 1
    assert losses(little) == pytest.approx(losses(plenty), abs=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_a_model_that_never_fits_fails_as_out_of_memory_with_its_size(tmp_path: Path) -> None:
    done, trial = search(tmp_path, 100, "min_micro_batch=32")
    assert done.returncode == 1
    failure = read(trial / "result.json")["failure"]
    assert failure["kind"] == "out_of_memory"
    assert "OOM when allocating tensor" in failure["message"]
    assert "min_micro_batch = 32" in failure["message"]
