"""How much activation memory gradient accumulation and recomputed activations save, each in a fresh process.

    python benchmarks/memory.py [--blocks 24] [--width 32] [--batch 128]

The model is a deep stack of residual blocks with group normalization on images of 32 x 32 pixels. Each process traces
with tiny batches, records its memory including the weights and the optimizer's state, trains one step on a large batch,
and reports how far the resident memory rose above that (VmHWM, reset before). The C library is set to return large
blocks at once (MALLOC_MMAP_THRESHOLD_), so that the peak counts live memory, not memory kept for reuse. The goals are
at most 0.45 x with four micro-batches and 0.5 x with recomputed activations, with equal weights after the step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS = {
    "plain": {},
    "4 micro-batches": {"accumulation_steps": 4},
    "recomputed": {"remat": True},
    "both": {"accumulation_steps": 4, "remat": True},
}
TINY_BATCHES = (4, 8)  # after two sizes, the traced step takes any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    print("| step | activations, MB | ratio | estimated, MB | largest weight difference | s |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        plain: dict[str, Any] = {}
        for way in WAYS:
            found = in_fresh_process(way, Path(folder))
            plain = plain or found
            ratio, difference = found["mb"] / plain["mb"], largest_difference(Path(folder), way)
            print(
                f"| {way} | {found['mb']:.0f} | {ratio:.2f} | {found['estimated_mb']:.0f} | {difference:.1e} "
                f"| {found['seconds']:.1f} |"
            )


def in_fresh_process(way: str, folder: Path) -> dict[str, Any]:
    """Return the memory and time of this way to compute a step."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--weights", str(folder / f"{way}.npz")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def largest_difference(folder: Path, way: str) -> float:
    """Return the largest difference between a weight after this step and after the plain step."""
    import numpy as np

    plain, found = (np.load(folder / f"{name}.npz") for name in ("plain", way))
    return max(float(np.abs(plain[name] - found[name]).max()) for name in plain.files)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train one step in this process; return its memory and time, and save the weights."""
    import time

    import keras
    import numpy as np
    import tensorflow as tf

    from mloptimizer.config.settings import Settings
    from mloptimizer.training.memory.estimate import estimate_memory
    from mloptimizer.training.step.optimizers import make_optimizer
    from mloptimizer.training.step.training_model import Objectives, StepOptions, TrainableModel

    keras.utils.set_random_seed(0)
    network = deep_stack(options.blocks, options.width)
    way = StepOptions(**WAYS[options.way])
    model = TrainableModel(network, Objectives(10, 5), way)
    optimizer = make_optimizer({"optimizer": "sgd"}, 0.1, model.trainable_variables, Settings(), scale_loss=False)
    model.compile(optimizer, auto_scale_loss=False)
    train, start = model.make_train_function(), model.get_weights()

    def step(size: int) -> None:
        images = np.random.default_rng(size).normal(size=(size, 32, 32, 3)).astype("float32")
        batch = images, np.eye(10, dtype="float32")[np.arange(size) % 10]
        train(iter(tf.data.Dataset.from_tensors(batch)))

    for size in TINY_BATCHES:
        step(size)
    model.set_weights(start)
    for variable in optimizer.variables:
        if variable.name.startswith("state"):
            variable.assign(np.zeros(variable.shape))
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory_mb("VmRSS"), time.perf_counter()
    step(options.batch)
    model.read_metrics()
    seconds, peak = time.perf_counter() - started, memory_mb("VmHWM")
    np.savez(options.weights, **{str(number): value for number, value in enumerate(model.get_weights())})
    micro_batch = options.batch // way.accumulation_steps
    estimate = estimate_memory(network, micro_batch, "float32", 1, remat=way.remat, on_host=True)
    return {"mb": peak - before, "estimated_mb": estimate.activations_mb, "seconds": seconds}


def deep_stack(blocks: int, width: int) -> Any:
    """Return a residual network whose activations take far more memory than its weights."""
    import keras
    from keras import layers

    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(width, 3, padding="same")(images)
    for _ in range(blocks):
        y = layers.Activation("relu")(layers.GroupNormalization(8)(x))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = layers.Activation("relu")(layers.GroupNormalization(8)(y))
        x = layers.Add()([x, layers.Conv2D(width, 3, padding="same", use_bias=False)(y)])
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def memory_mb(figure: str) -> float:
    """Return VmRSS (resident memory) or VmHWM (its peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(figure)) / 1024


if __name__ == "__main__":
    main()
