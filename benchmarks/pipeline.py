"""How much faster the input pipeline is than the training, on CIFAR-10: images per second of the pipeline alone, of
the training step of the search space's smallest ResNet alone, and of a memory copy of a batch's bytes.

    python benchmarks/pipeline.py [--threads 2] [--batch 64] [--rounds 7] [--cache memory|disk]

All are measured in turn in one process; each value is the median of the rounds. Goal: flip and crop at least 5 times
as fast as the step. CIFAR-10 must be on this machine (`mloptimizer datasets`).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from models import plan_smallest

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Slot, TrialPlan
from mloptimizer.data.library import prepare_dataset
from mloptimizer.training.devices import configure_devices
from mloptimizer.training.input.augmentation import Augmentation
from mloptimizer.training.input.pipeline import PREFETCHED_BATCHES, load_images, training_batches
from mloptimizer.training.setup import make_model, set_up
from mloptimizer.training.step.schedule import Steps

FLIP_AND_CROP = {"flip_probability": 0.5, "crop_padding": 4}
PIPELINES = {
    "no augmentation": Augmentation(),
    "flip + crop": Augmentation(**FLIP_AND_CROP),
    "flip + crop + random erasing": Augmentation(**FLIP_AND_CROP, erasing_probability=0.5),
    "flip + crop + MixUp": Augmentation(**FLIP_AND_CROP, mixup_alpha=0.2),
    "flip + crop + CutMix": Augmentation(**FLIP_AND_CROP, cutmix_alpha=1.0),
    "flip + crop + MixUp or CutMix": Augmentation(**FLIP_AND_CROP, mixup_alpha=0.2, cutmix_alpha=1.0),
    "flip + crop + RandAugment": Augmentation(**FLIP_AND_CROP, randaugment_magnitude=9.0),
}
ROUND_SECONDS = 1.0
COPIED_BATCHES = 100  # more than a processor's cache holds
STEP, COPY = "training step, smallest ResNet", "memory copy of the batches"


def silent(*_: Any) -> None:
    """Ignore a decision."""


def seconds_of(act: Callable[[], Any]) -> float:
    """Return the seconds per call over one round, after using up the batches that were prefetched."""
    for _ in range(PREFETCHED_BATCHES + 1):
        act()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < ROUND_SECONDS:
        act()
        count += 1
    return (time.perf_counter() - started) / count


def step_alone(plan: TrialPlan, slot: Slot, batch: Any) -> Callable[[], Any]:
    """Return a call that trains one step, always on the same batch."""
    prepared = set_up(plan, slot, silent)
    train = make_model(plan, prepared.network, prepared.setup, False, silent).make_train_function()
    same = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: train(same)


def copy_alone(images: np.ndarray) -> Callable[[], Any]:
    """Return a call that copies as many bytes as the images take."""
    pages = np.zeros((COPIED_BATCHES, 2, *images.shape), images.dtype)
    turn = iter(range(10**9))

    def copy() -> None:
        page = pages[next(turn) % COPIED_BATCHES]
        np.copyto(page[0], page[1])

    return copy


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of each part."""
    slot = Slot("cpu0", cpu_ids=tuple(range(options.threads)))
    devices = configure_devices(slot, 1, silent)
    dataset = prepare_dataset("cifar10", 0.2, 0, 0)
    images = load_images(dataset, "train", silent, options.cache)
    steps = Steps(options.batch, images.count // options.batch, 10**9, 1.0)
    acts: dict[str, Callable[[], Any]] = {}
    for name, augmentation in PIPELINES.items():
        iterator = iter(training_batches(images, steps, 1, devices, augmentation).start(0))
        acts[name] = lambda iterator=iterator: next(iterator)
    batch = acts["flip + crop"]()
    plan = plan_smallest(Settings(batch_size=options.batch, steps_per_execution=1))
    acts[STEP] = step_alone(plan, slot, batch)
    acts[COPY] = copy_alone(batch[0].numpy())
    rounds = [{name: seconds_of(act) for name, act in acts.items()} for _ in range(options.rounds)]
    return {name: options.batch / statistics.median(row[name] for row in rounds) for name in acts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", choices=("memory", "disk"), default="memory")
    options = parser.parse_args()
    rates = measure(options)
    place = f"batch {options.batch}, {options.threads} threads, images from {options.cache}"
    print(f"| CIFAR-10, {place} | images/s | × step |")
    print("|---|--:|--:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates[STEP]:.1f} |")
    fast = rates["flip + crop"]
    print(f"\nFlip and crop: {fast / rates[STEP]:.1f} × the step (goal: 5), {fast / rates[COPY]:.2f} × the memory copy")


if __name__ == "__main__":
    main()
