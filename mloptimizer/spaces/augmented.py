"""Adds the strengths of the image augmentation to the parameters that a search space samples."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping

from mloptimizer.core.nouns import DatasetInfo, Scalar
from mloptimizer.spaces.space_files import SearchSpace, Suggest

_PREFIX = "augment_"  # of parameter names in the study
_COLOUR_CHANNELS = 3

# By setting. Each range includes 0 (off), and steps make the study propose it often enough.
_STRENGTHS: Mapping[str, Callable[[Suggest, str], float]] = {
    "flip_probability": lambda trial, name: trial.suggest_categorical(name, [0.0, 0.5]),
    "crop_padding": lambda trial, name: trial.suggest_float(name, 0.0, 0.2, step=0.025),
    "randaugment_magnitude": lambda trial, name: trial.suggest_float(name, 0.0, 10.0, step=1.0),
    "mixup_alpha": lambda trial, name: trial.suggest_float(name, 0.0, 1.0, step=0.2),
    "cutmix_alpha": lambda trial, name: trial.suggest_float(name, 0.0, 1.0, step=0.2),
    "erasing_probability": lambda trial, name: trial.suggest_float(name, 0.0, 0.5, step=0.125),
}


def suggest_augmentation(trial: Suggest, dataset: DatasetInfo, without: Collection[str] = ()) -> dict[str, Scalar]:
    """Return the strengths of the augmentation by setting, except those in `without`.

    Returns:
        flip_probability: 0 or 0.5, only for colour images: a mirrored digit is another digit. crop_padding: 0 to 0.2
        of the side. randaugment_magnitude: 0 to 10. mixup_alpha, cutmix_alpha: 0 to 1. erasing_probability: 0 to 0.5.
    """
    skipped = {*without, *(() if dataset.input_shape[2] == _COLOUR_CHANNELS else ("flip_probability",))}
    asked = {name: suggest for name, suggest in _STRENGTHS.items() if name not in skipped}
    return {name: round(float(suggest(trial, _PREFIX + name)), 3) for name, suggest in asked.items()}


def with_augmentation(space: SearchSpace) -> SearchSpace:
    """Return the space with the strengths of the augmentation added; those that the space samples itself win."""
    own = space.sample

    @functools.wraps(own)
    def sample(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
        params = own(trial, dataset)
        if not isinstance(params, Mapping):
            return params  # the caller reports the error
        return {**params, **suggest_augmentation(trial, dataset, params)}

    return dataclasses.replace(space, sample=sample)
