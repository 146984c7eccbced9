"""The model that the training benchmarks share: the smallest residual network of the built-in space."""

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Phase, TrialPlan
from mloptimizer.data.library import prepare_dataset
from mloptimizer.spaces.space_files import builtin_folder

SMALLEST = {
    "stages": 2,
    "blocks": 1,
    "width": 16,
    "stem_kernel": 3,
    "kernel": 3,
    "normalization": "batch",
    "activation": "relu",
    "pooling": "average",
    "dropout": 0.0,
    "head_units": 0,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 2e-4,
    "label_smoothing": 0.1,
}


def plan_smallest(settings: Settings, dataset: str = "cifar10", steps_per_epoch: int = 0, width: int = 16) -> TrialPlan:
    """Return a plan to train it for one epoch; nothing is written."""
    return TrialPlan(
        study="benchmark",
        number=0,
        phase=Phase.EXPLORATION,
        space="resnet",
        space_source=(builtin_folder() / "resnet.py").read_text(),
        params={**SMALLEST, "width": width},
        dataset=prepare_dataset(dataset, 0.2, 0, 0),
        epochs=1,
        patience=1,
        seed=0,
        directory="",
        steps_per_epoch=steps_per_epoch,
        settings=settings,
    )
