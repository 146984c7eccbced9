"""Chooses the model to measure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.spaces.space_files import (
    RandomSuggest,
    SearchSpace,
    builtin_folder,
    read_space,
    read_spaces,
    sample_params,
)
from mloptimizer.tuning.measurement import SEED

# The model that is measured unless a search space is named: a residual network from the middle of the built-in space.
MEASURED_MODEL: Mapping[str, Any] = {
    **{"stages": 3, "blocks": 2, "width": 32, "stem_kernel": 3, "kernel": 3, "normalization": "batch"},
    **{"activation": "relu", "pooling": "average", "dropout": 0.0, "head_units": 0, "optimizer": "adamw"},
    **{"adamw_learning_rate": 2e-3, "weight_decay": 5e-4, "label_smoothing": 0.0},
}


def choose_model(name: str | None, dataset: DatasetInfo, own_folder: Path) -> tuple[SearchSpace, Params]:
    """Return the model to measure: `MEASURED_MODEL`, or the first draw, seed 0, from the named search space.

    Raises:
        UsageError: there is no such space, or it cannot be sampled.
    """
    if name is None:
        space = read_space("resnet", builtin_folder() / "resnet.py")
        return space, sample_params(space, _Fixed(), dataset)
    space = read_spaces([name], own_folder)[0]
    return space, sample_params(space, RandomSuggest(SEED), dataset)


class _Fixed:
    """Suggests `MEASURED_MODEL`, with whole numbers as close to it as the data set allows."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(min(max(MEASURED_MODEL[name], low), high))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(MEASURED_MODEL[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return MEASURED_MODEL[name]
