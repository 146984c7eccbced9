"""What a checkpoint costs an epoch: one training of a model of 5 million weights, every second epoch with a checkpoint.

    python benchmarks/checkpoints.py [--images 600] [--epochs 13]

Epochs with and without a checkpoint alternate in one trial (`checkpoint_epochs = 2`): the copy is made when an epoch
begins, and compressed and written while it trains. An epoch's time runs from one record to the next, including any wait
for a file. The script also prints the process's CPU time, which other programs disturb less. A residual network on a
few images of CIFAR-10, AdamW, one CPU device: fewer images per epoch make a checkpoint weigh more. Goal: at most 3 %.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from models import plan_smallest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Slot
from mloptimizer.core.trial_files import CHECKPOINTS
from mloptimizer.data.library import prepare_dataset
from mloptimizer.training.network import build_network
from mloptimizer.training.trial import run_trial

FIVE_MILLION = {"stages": 4, "width": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=13)
    options = parser.parse_args()
    plan = plan_smallest(Settings(checkpoint_epochs=2, batch_size=64))
    plan = replace(
        plan,
        params={**plan.params, **FIVE_MILLION},
        dataset=prepare_dataset("cifar10", 0.2, 0, options.images),
        epochs=options.epochs,
        patience=options.epochs,
    )
    weights = build_network(plan.space, plan.space_source, plan.params, plan.dataset).count_params()
    ended: list[tuple[float, float]] = []  # when each epoch ended: wall time and CPU time, s

    def emit(event: Any) -> None:
        if isinstance(event, EpochRecord):
            ended.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(replace(plan, directory=folder), Slot("cpu0"), emit, lambda: False)
        size_mb = max(path.stat().st_size for path in (Path(folder) / CHECKPOINTS).iterdir()) / 1e6
    walls, cpus = ([end - start for start, end in itertools.pairwise(clock)] for clock in zip(*ended, strict=True))
    print("| epochs | without, s | with a checkpoint, s | ratio | ratio of CPU times |\n|--:|--:|--:|--:|--:|")
    ratios = []
    for first in range(0, len(walls) - 1, 2):  # the second and third epoch, the fourth and fifth, …
        ratios.append((walls[first + 1] / walls[first], cpus[first + 1] / cpus[first]))
        values = f"{walls[first]:.2f} | {walls[first + 1]:.2f} | {ratios[-1][0]:.3f} | {ratios[-1][1]:.3f}"
        print(f"| {first + 2} and {first + 3} | {values} |")
    count = len(ratios) + 1  # the last epoch has one too
    print(f"{weights / 1e6:.2f} million weights, {plan.dataset.train_size} images per epoch, {size_mb:.0f} MB per file")
    print(f"the training thread spent {result.timings['checkpoint'] / count:.3f} s per checkpoint")
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {wall:.3f}, of CPU times {cpu:.3f}")


if __name__ == "__main__":
    main()
