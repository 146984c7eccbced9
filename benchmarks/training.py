"""Whether training is as fast as a plain Keras loop: one model, the same batches, in turn, in one process.

    python benchmarks/training.py [--rounds 24] [--steps 20] [--width 16]

The plain side is `compile` and `fit` as people usually write them: Keras's AdamW with a cosine schedule, weight decay
and clipping by the global norm, cross-entropy with label smoothing, and accuracy. Ours does the same, and also counts
the top-k accuracy, checks every step, records the gradient norm and measures how long it waits for batches. One CPU
device, float32, CIFAR-10. The goal is at least 0.98 x the plain images per second, after tracing.
"""

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from models import SMALLEST, plan_smallest

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Slot
from mloptimizer.training.setup import make_model, make_network, set_up

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--dataset", default="cifar10")
    options = parser.parse_args()
    settings = Settings(batch_size=BATCH, accumulation_steps=1, remat="off")
    plan = plan_smallest(settings, options.dataset, options.steps, options.width)
    prepared = set_up(plan, Slot("cpu0"), lambda *_: None)
    setup = prepared.setup
    ours = make_model(plan, prepared.network, setup, False, lambda *_: None)
    plain = _plain_model(make_network(plan, setup.devices, setup.precision), setup.steps.total)
    speeds: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(options.rounds + 1):
        for name, model in (("plain", plain), ("ours", ours)):
            speed = _images_per_second(model, prepared.training.start(0), options.steps)
            if number:  # the first round traces
                speeds[name].append(speed)
    print("| round | plain Keras, images/s | mloptimizer, images/s | ratio |\n|--:|--:|--:|--:|")
    ratios = [ours / plain for plain, ours in zip(speeds["plain"], speeds["ours"], strict=True)]
    for number, ratio in enumerate(ratios):
        print(f"| {number + 1} | {speeds['plain'][number]:.0f} | {speeds['ours'][number]:.0f} | {ratio:.3f} |")
    print(f"median ratio {statistics.median(ratios):.3f}")


def _plain_model(network: Any, total_steps: int) -> Any:
    schedule = keras.optimizers.schedules.CosineDecay(SMALLEST["learning_rate"], total_steps)
    network.compile(
        keras.optimizers.AdamW(schedule, weight_decay=SMALLEST["weight_decay"], global_clipnorm=1.0),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMALLEST["label_smoothing"]),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return network


def _images_per_second(model: Any, batches: Any, steps: int) -> float:
    started = time.perf_counter()
    model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)
    return steps * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
