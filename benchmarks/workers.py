"""Whether two workers use two cores better than one worker with both: the same trials, in turn, in one run.

    python benchmarks/workers.py [--trials 12] [--images 2000] [--epochs 3] [--every-size]

The goal is at most 0.78 with models so small that one cannot keep two cores busy: the resnet space at its smallest
width. `--every-size` takes the built-in spaces as they are; a large convolution uses both cores well by itself, so
there is less to gain. There is no pruning and no early stopping, so both sides do the same work.
"""

import argparse
import tempfile
from pathlib import Path

from searches import timed_search, trial_seconds

from mloptimizer.spaces.space_files import builtin_folder

SMALL = "small_resnet"
WIDTHS = "[16, 24, 32, 48, 64]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--every-size", action="store_true")
    options = parser.parse_args()
    print("| round | one worker, s | two workers, s | ratio | slots busy with two |")
    print("|--:|--:|--:|--:|--:|")
    for number in range(options.rounds):
        walls = {}
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                if not options.every_size:
                    _write_small_space(Path(folder) / "search_spaces" / f"{SMALL}.py")
                walls[workers] = timed_search(Path(folder), *_words(options, workers))
                busy = sum(trial_seconds(Path(folder), "total")) / (workers * walls[workers])
        print(f"| {number + 1} | {walls[1]:.1f} | {walls[2]:.1f} | {walls[2] / walls[1]:.3f} | {busy:.0%} |")


def _write_small_space(path: Path) -> None:
    """Write the resnet space with its smallest width only."""
    source = (builtin_folder() / "resnet.py").read_text()
    small = source.replace(WIDTHS, "[16]")
    if small == source:
        raise SystemExit(f"benchmarks/workers.py: the resnet space has no widths {WIDTHS}. Update WIDTHS.")
    path.parent.mkdir(parents=True)
    path.write_text(small)


def _words(options: argparse.Namespace, workers: int) -> list[str]:
    settings = {
        "sampler": "random",  # its proposals do not depend on the order in which trials end
        "pruner": "none",
        "exploration_epochs": options.epochs,
        "exploration_patience": options.epochs,
        "train_limit": options.images,
    }
    words = ["--dataset", "cifar10", "--trials", str(options.trials), "--workers", str(workers), "--seed", "1"]
    words += [] if options.every_size else ["--space", SMALL]
    return [*words, "--explore-only", *(word for item in settings.items() for word in ("--set", "{}={}".format(*item)))]


if __name__ == "__main__":
    main()
