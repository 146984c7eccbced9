"""Decides the default of the setting `sampler_group`: does TPE find better models if it models each family separately?

The objective stands in for a training, so that a study of 100 trials takes seconds: a fixed, slightly noisy response
surface over the parameters of the built-in spaces, modeled on real trainings (a best learning rate per optimizer,
which falls as models grow; depth and width that pay off together; better and worse families; parameters
that do not matter). It trains no Keras model. Run: python benchmarks/sampler_group.py [SEEDS] [TRIALS]
"""

import hashlib
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import DatasetInfo, Objective, Outcome, Params, TrialResult
from mloptimizer.spaces.space_files import SearchSpace, read_spaces
from mloptimizer.study.study import open_study

SHAPE = (32, 32, 3)
DATASET = DatasetInfo(
    "surface",
    "classification",
    SHAPE,
    10,
    tuple("0123456789"),
    40_000,
    10_000,
    10_000,
    (125.0,) * 3,
    (63.0,) * 3,
    "",
    "",
    0,
    0.2,
    0,
)
PROMISE = {"resnet": 0.02, "inception": 0.0, "cnn": -0.02}
BEST_RATE = {"adamw": 2e-3, "sgd": 8e-2, "lion": 2e-4}
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "tpe, group": {"sampler": "tpe", "sampler_group": True},
    "tpe, no group": {"sampler": "tpe", "sampler_group": False},
    "random": {"sampler": "random"},
}


def surface(space: str, params: Params) -> float:
    """Return a validation accuracy from 0 to 1, without noise."""
    depth = sum(float(params.get(name, 0)) for name in ("blocks", "modules", "convolutions")) / 3
    width = math.log2(float(params.get("width", 32)) / 16) / 2
    best_width, best_depth = (0.4 + 0.6 * _share(space, part) for part in ("width", "depth"))
    size = 0.10 * (depth - best_depth) ** 2 + 0.10 * (width - best_width) ** 2 + 0.08 * (depth - width) ** 2
    optimizer = str(params["optimizer"])
    rate = math.log10(float(params["learning_rate"]) / BEST_RATE[optimizer]) + 0.4 * (depth + width - 1)
    value = 0.80 + PROMISE.get(space, 0.0) - size - 0.08 * rate**2
    value -= {"adamw": 0.0, "sgd": 0.01, "lion": 0.005}[optimizer]
    value -= 0.015 * (math.log10(float(params["weight_decay"])) + 3.7) ** 2
    value -= 0.1 * (float(params["label_smoothing"]) - 0.1) ** 2 + 0.15 * (float(params["dropout"]) - 0.2) ** 2
    choices = ((name, choice) for name, choice in params.items() if name != "optimizer" and isinstance(choice, str))
    return value - sum(0.02 * _share(space, name, choice) for name, choice in choices)


def _share(*words: object) -> float:
    """Return a number from 0 to 1 for the words, the same in every run."""
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16) / 2**32


def explore(spaces: list[SearchSpace], settings: Settings, seed: int, trials: int) -> tuple[list[float], float]:
    """Return the best trial's value without noise after each trial, and the seconds per proposal."""
    noise, found, seconds = random.Random(seed), [], 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        study = open_study("", Path(folder) / "studies.journal", "s", settings, seed, Objective("val_accuracy"))
        best = (-math.inf, -math.inf)
        for _ in range(trials):
            started = time.perf_counter()
            suggestion = study.ask(spaces, DATASET)
            seconds += time.perf_counter() - started
            if suggestion is None or suggestion.failure:
                raise SystemExit(f"the space cannot be sampled: {suggestion}")
            true = surface(suggestion.space, suggestion.params)
            seen = true + noise.gauss(0, 0.005)
            study.finish(TrialResult(suggestion.number, Outcome.COMPLETED, seen, 1.0))
            best = max(best, (seen, true))
            found.append(best[1])
    return found, seconds / trials


def measure(spaces: list[SearchSpace], seeds: int, trials: int) -> None:
    """Print the table; the variants take turns, so that a busy machine slows them all equally."""
    runs: dict[str, list[tuple[list[float], float]]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for name, values in VARIANTS.items():
            settings = Settings.model_validate({"pruner": "none", **values})
            runs[name].append(explore(spaces, settings, seed, trials))
    half = trials // 2
    print(
        f"{', '.join(space.name for space in spaces)}; {seeds} seeds; median [quartiles] of the best trial's accuracy"
    )
    print(f"{'':14} {f'after {half}':>24} {f'after {trials}':>24}  {'ms/ask':>7}  seeds better than no group")
    rival = [found[-1] for found, _ in runs["tpe, no group"]]
    for name, done in runs.items():
        columns = [_spread([found[number - 1] for found, _ in done]) for number in (half, trials)]
        won = sum(found[-1] > other for (found, _), other in zip(done, rival, strict=True))
        ask = statistics.median(seconds for _, seconds in done) * 1000
        print(f"{name:14} {columns[0]:>24} {columns[1]:>24}  {ask:7.1f}  {won}/{seeds}")
    print(flush=True)


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.4f} [{low:.4f} {high:.4f}]"


def main() -> None:
    """Measure all families together, then one alone."""
    seeds, trials = (int(word) for word in [*sys.argv[1:], *("15", "100")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as empty:
        spaces = read_spaces([], Path(empty))
    measure(spaces, seeds, trials)
    measure([space for space in spaces if space.name == "resnet"], seeds, trials)


if __name__ == "__main__":
    main()
