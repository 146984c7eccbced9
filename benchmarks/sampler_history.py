"""Decides the default of `sampler_history`: what is lost when TPE learns from the newest and the best trials only?

    python -m benchmarks.sampler_history [--trials 1000] [--seeds 3] [--history 0 300 150 75]

Studies run one trial at a time on the standard functions of `landscapes.py`, without pruning; for each the regret of
the best trial so far is kept. `0` learns from all trials; random search is there to show how much there is to lose. A
ratio is the geometric mean, over functions and seeds, of the regret against that of Optuna's TPE as it comes.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.landscapes import DATASET, FUNCTIONS, SPACES, make_study, regret
from mloptimizer.records import Outcome, TrialResult
from mloptimizer.settings import Settings
from mloptimizer.study.study import Study

OPTUNAS = "Optuna's own"
LEAST = 1e-3  # regrets below count as this: the rest is chance


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--history", type=int, nargs="+", default=[0, 300, 150, 75])
    parser.add_argument("--keep", type=Path, help="JSON file for the single runs")
    asked = parser.parse_args()
    marks = sorted({min(300, asked.trials), asked.trials})
    variants: dict[str, dict[str, object]] = {OPTUNAS: {}}
    variants |= {str(history or "all"): {"sampler_history": history} for history in asked.history}
    variants["random"] = {"sampler": "random"}
    runs: dict[str, dict[str, list[list[float]]]] = {name: {f: [] for f in FUNCTIONS} for name in variants}
    seconds = dict.fromkeys(variants, 0.0)
    for seed in range(asked.seeds):
        for function in FUNCTIONS:
            for name, values in variants.items():
                started = time.perf_counter()
                settings = Settings.model_validate({"pruner": "none", **values})
                study = make_study(settings, seed, optunas_own=name == OPTUNAS)
                found = explore(function, study, asked.trials)
                seconds[name] += time.perf_counter() - started
                runs[name][function].append([found[mark - 1] for mark in marks])
                print(seed, function, name, runs[name][function][-1], flush=True)
        if asked.keep:
            asked.keep.write_text(json.dumps(runs), encoding="utf-8")
    made = asked.seeds * len(FUNCTIONS) * asked.trials
    for index, mark in enumerate(marks):
        show(runs, index, mark, {name: 1000 * spent / made for name, spent in seconds.items()})


def explore(function: str, study: Study, trials: int) -> list[float]:
    """Return the regret of the best trial so far, after each trial."""
    best, found = math.inf, list[float]()
    for _ in range(trials):
        suggestion = study.ask(SPACES, DATASET)
        if suggestion is None:
            raise SystemExit("nothing was proposed")
        missed = regret(function, suggestion.space, suggestion.params)
        study.finish(TrialResult(suggestion.number, Outcome.COMPLETED, -missed, 1.0))
        best = min(best, missed)
        found.append(best)
    return found


def show(runs: dict[str, dict[str, list[list[float]]]], index: int, mark: int, cost: dict[str, float]) -> None:
    """Print the median regrets after so many trials."""
    table = Table("history", *FUNCTIONS, "against the first", "ms a trial", title=f"median regret after {mark} trials")
    first = next(iter(runs.values()))
    for name, by_function in runs.items():
        medians = [f"{statistics.median(run[index] for run in done):.3f}" for done in by_function.values()]
        ratio = compare(by_function, first, index)
        table.add_row(name, *medians, f"{ratio:.2f} x", f"{cost[name]:.0f}")
    Console(width=110).print(table)


def compare(ours: dict[str, list[list[float]]], theirs: dict[str, list[list[float]]], index: int) -> float:
    """Return the geometric mean of the ratios of the regrets, run by run."""
    logarithms: Sequence[float] = [
        math.log(max(one[index], LEAST) / max(other[index], LEAST))
        for function in ours
        for one, other in zip(ours[function], theirs[function], strict=True)
    ]
    return math.exp(statistics.fmean(logarithms))


if __name__ == "__main__":
    main()
