"""Standard optimization test functions as search spaces of three families, with choices and branches like real ones.

A trial's objective is minus the function's value, so higher is better and 0 is the best possible. Every family
has its own optimum; two of the three cannot reach the best. One of the four choices is right; another adds a parameter.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import DatasetInfo, Objective, Params, Scalar
from mloptimizer.spaces.space_files import SearchSpace, Suggest
from mloptimizer.study.study import Study

DATASET = DatasetInfo(
    "surface", "classification", (8, 8, 1), 2, ("0", "1"), 8, 2, 2, (0.0,), (1.0,), "", "", 0, 0.2, 0
)  # fmt: skip
FAMILIES = {"plain": 0.0, "wide": 0.15, "deep": 0.4}  # how far their best is from the optimum
KINDS = {"a": 0.3, "b": 0.0, "c": 0.2, "d": 0.1}
BRANCH = "d"  # adds a parameter
OBJECTIVE = Objective("val_accuracy")

_HARTMANN_ALPHA = (1.0, 1.2, 3.0, 3.2)
_HARTMANN_A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
_HARTMANN_LEAST = -3.32237


def sphere(x: Sequence[float]) -> float:
    """Return the sum of squares; 0 at the origin, scaled to 1 halfway to the border."""
    return sum(value**2 for value in x) / len(x) * 4


def rosenbrock(x: Sequence[float]) -> float:
    """Return the curved valley of Rosenbrock (1960), scaled; 0 where every x is 0 (1 in the usual coordinates)."""
    y = [1 + 2 * value for value in x]
    steps = (100 * (after - before**2) ** 2 + (1 - before) ** 2 for before, after in itertools.pairwise(y))
    return math.log1p(sum(steps)) / 5


def ackley(x: Sequence[float]) -> float:
    """Return the many-holed funnel of Ackley (1987), scaled; 0 at the origin."""
    y = [8 * value for value in x]
    square = math.sqrt(sum(value**2 for value in y) / len(y))
    waves = sum(math.cos(2 * math.pi * value) for value in y) / len(y)
    return (-20 * math.exp(-0.2 * square) - math.exp(waves) + 20 + math.e) / 10


def hartmann(x: Sequence[float]) -> float:
    """Return Hartmann's function of six variables (Dixon and Szego 1978), moved to 0 at its optimum."""
    y = [(value + 1) / 2 for value in x]
    total = 0.0
    for alpha, row, place in zip(_HARTMANN_ALPHA, _HARTMANN_A, _HARTMANN_P, strict=True):
        total -= alpha * math.exp(-sum(a * (v - p) ** 2 for a, v, p in zip(row, y, place, strict=True)))
    return total - _HARTMANN_LEAST


FUNCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sphere": sphere,
    "rosenbrock": rosenbrock,
    "ackley": ackley,
    "hartmann": hartmann,
}
DIMENSIONS = 6


def sample(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    """Choose a point of a family."""
    params: dict[str, Scalar] = {f"x{i}": trial.suggest_float(f"x{i}", -1.0, 1.0) for i in range(DIMENSIONS)}
    params["kind"] = trial.suggest_categorical("kind", list(KINDS))
    params["layers"] = trial.suggest_int("layers", 1, 6)
    if params["kind"] == BRANCH:
        params["rate"] = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    return params


SPACES = [SearchSpace(name, "", "", sample, lambda params, dataset: None) for name in FAMILIES]


def regret(function: str, space: str, params: Params) -> float:
    """Return how far the configuration is from the best possible, 0 or more."""
    moved = random.Random(f"{function} {space}")  # every family has its optimum elsewhere
    shift = [moved.uniform(-0.4, 0.4) if function != "hartmann" else 0.0 for _ in range(DIMENSIONS)]
    value = FUNCTIONS[function]([float(params[f"x{i}"]) - shift[i] for i in range(DIMENSIONS)])
    value += FAMILIES[space] + KINDS[str(params["kind"])] + 0.03 * abs(float(params["layers"]) - 4)
    if params["kind"] == BRANCH:
        value += 0.1 * abs(math.log10(float(params["rate"])) + 2) - 0.1
    return max(value, 0.0)


def make_study(settings: Settings, seed: int) -> Study:
    """Return a study in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = InMemoryStorage()
    made = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    made.set_user_attr("objective", OBJECTIVE.metric)
    study = Study("", Path(), storage, "s")
    study.prepare(settings, seed)
    return study
