"""What Ray costs on one machine: the same digits trials with Ray and with the process engine, in turn, in one run.

    python benchmarks/cluster.py [--trials 12] [--workers 2] [--rounds 2]

The goal is at most 1.25 times the time after start-up, counted from the end of the very first epoch to the last
result. There is no pruning and no early stopping, so both sides do the same work. Needs the extra 'ray'.
"""

import argparse
import tempfile
from datetime import datetime
from pathlib import Path

from searches import STUDY, timed_search

from mloptimizer.core.files import read_json, read_json_lines
from mloptimizer.store.workspace import Workspace

ENGINES = {"process": ["--engine", "process"], "ray": ["--engine", "ray", "--address", "local"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print("| round | process, s | ray, s | ratio | whole command, process | whole command, ray |")
    print("|--:|--:|--:|--:|--:|--:|")
    for number in range(options.rounds):
        whole, spans = {}, {}
        for engine, words in ENGINES.items():
            with tempfile.TemporaryDirectory() as folder:
                whole[engine] = timed_search(Path(folder), *words, *_words(options))
                spans[engine] = _seconds_after_start(Workspace(Path(folder)).study(STUDY))
        ratio = spans["ray"] / spans["process"]
        values = (spans["process"], spans["ray"], ratio, whole["process"], whole["ray"])
        print("| {} | {:.1f} | {:.1f} | {:.3f} | {:.1f} s | {:.1f} s |".format(number + 1, *values), flush=True)


def _seconds_after_start(study: Path) -> float:
    first = min(row["ended_utc"] for path in study.glob("trial_*/epochs.jsonl") for row in read_json_lines(path))
    last = max(read_json(path)["ended_utc"] for path in study.glob("trial_*/result.json"))
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _words(options: argparse.Namespace) -> list[str]:
    settings = {"sampler": "random", "pruner": "none", "exploration_epochs": 8, "exploration_patience": 8}
    words = ["--dataset", "digits", "--trials", str(options.trials), "--workers", str(options.workers), "--seed", "1"]
    return [*words, "--explore-only", *(word for item in settings.items() for word in ("--set", "{}={}".format(*item)))]


if __name__ == "__main__":
    main()
