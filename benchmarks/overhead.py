"""What a search costs beyond its trials: wall time of a search on one worker, without TensorFlow's one import,
relative to the time that its trials spend building and fitting.

    python benchmarks/overhead.py [--trials 12] [--dataset digits]

The goal is at most 1.15.
"""

import argparse
import tempfile
from pathlib import Path

from searches import import_seconds, timed_search, trial_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--dataset", default="digits")
    options = parser.parse_args()
    importing = min(import_seconds() for _ in range(3))  # the fastest: a slower one would flatter the ratio
    with tempfile.TemporaryDirectory() as folder:
        words = ["--dataset", options.dataset, "--trials", str(options.trials), "--workers", "1", "--seed", "1"]
        wall = timed_search(Path(folder), *words, "--explore-only")
        fitting = sum(trial_seconds(Path(folder), "build", "fit"))
        working = sum(trial_seconds(Path(folder), "total"))
    print(f"| a search of {options.trials} {options.dataset} trials, one worker | s |")
    print("|---|--:|")
    print(f"| wall time of the command | {wall:.1f} |")
    print(f"| importing TensorFlow once | {importing:.1f} |")
    print(f"| its trials: building and fitting | {fitting:.1f} |")
    print(f"| its trials: total | {working:.1f} |")
    print(f"| **overhead: (wall − import) / (build + fit)** | **{(wall - importing) / fitting:.3f}** |")


if __name__ == "__main__":
    main()
