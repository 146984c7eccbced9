"""What a short search finds on CIFAR-10 with 5,000 training images, including hall of fame and test evaluation.

    python benchmarks/cifar10.py [--trials 4] [--images 5000] [--set NAME=VALUE …]

Prints each trial's validation accuracy, and the winner's test accuracy. Guessing gives 0.10; the goal is a winner
above 0.35. CIFAR-10 must be on this machine (`mloptimizer datasets`).
"""

import argparse
import tempfile
from pathlib import Path

from searches import STUDY, timed_search

from mloptimizer.core.nouns import Phase
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    words = ["--dataset", "cifar10", "--trials", str(options.trials), "--seed", str(options.seed)]
    settings = [f"train_limit={options.images}", *options.settings]
    with tempfile.TemporaryDirectory() as folder:
        wall = timed_search(Path(folder), *words, *(word for item in settings for word in ("--set", item)))
        store = MetricsStore(Workspace(Path(folder)), STUDY)
        print("| training | space | outcome | epochs | val_accuracy | s |")
        print("|---|---|---|--:|--:|--:|")
        for phase in (Phase.EXPLORATION, Phase.HALL_OF_FAME):
            for trial in store.trials(phase):
                value = trial.result["value"]
                values = (
                    f"{len(trial.epochs)} | {'–' if value is None else f'{value:.4f}'} | {trial.result['seconds']:.0f}"
                )
                print(f"| {trial.directory.name} | {trial.plan['space']} | {trial.result['outcome']} | {values} |")
        for reading in store.test_evaluations():
            accuracy, loss = reading["test_accuracy"], reading["test_loss"]
            print(f"\nTest set, trial {reading['trial']}: accuracy {accuracy:.4f}, loss {loss:.4f}")
        print(f"Wall time {wall:.0f} s")


if __name__ == "__main__":
    main()
