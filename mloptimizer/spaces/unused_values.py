"""Finds the values that a search space returns and nothing uses, and says which training value was meant.

`build` may have good reasons not to read a value: it may belong to a layer that this model does not have. So a value is
refused only if its name refers to training, and no code of the space but `sample` mentions it.
"""

import ast
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mloptimizer.spaces.training_values import TRAINING_VALUES

_NEITHER = ""  # neither a training value nor a setting
# What people call a training value or a setting; in lower case, without "_".
_SYNONYMS: Mapping[str, str] = {
    "learning_rate": "lr eta lrate learnrate stepsize",
    "weight_decay": "wd l2 decay l2reg",
    "label_smoothing": "smoothing labelsmooth",
    "optimizer": "opt optim optimiser",
    "schedule": "scheduler",
    "flip_probability": "flip hflip horizontalflip randomflip",
    "crop_padding": "crop randomcrop",
    "randaugment_magnitude": "randaugment randaug",
    "mixup_alpha": "mixup",
    "cutmix_alpha": "cutmix",
    "erasing_probability": "erasing randomerasing cutout",
    "batch_size": "batch bs minibatch minibatchsize",
    "exploration_epochs": "epoch epochs nepochs numepochs maxepochs",
    "exploration_patience": "patience earlystopping",
    "clip_threshold": "clipnorm clipvalue clip gradclip gradientclip globalclipnorm",
    "ema_momentum": "ema emadecay",
    "warmup_epochs": "warmup warmupsteps",
    "precision": "dtype mixedprecision",
    _NEITHER: "momentum nesterov beta1 beta2 amsgrad loss lossfunction",
}
_MEANT = {_plain: meant for meant, names in _SYNONYMS.items() for _plain in (meant.replace("_", ""), *names.split())}
_LEAST_LIKENESS = 0.8


class ReadParams(dict[str, Any]):
    """A configuration for `build` that knows which values have not been read.

    Iterating over it, copying, unpacking and comparing count as reading all values.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.unread = set(params)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def _reading(name: str, all_values: bool) -> Any:
    inherited = getattr(dict, name)

    def read(self: ReadParams, *arguments: Any) -> Any:
        found = inherited(self, *arguments)  # first: raises for a name that cannot be hashed
        self.unread.difference_update(self.unread.copy() if all_values else arguments[:1])
        return found

    return read


for _name in ("__getitem__", "__contains__", "get", "pop", "setdefault"):
    setattr(ReadParams, _name, _reading(_name, all_values=False))
for _name in "__iter__ __reversed__ __eq__ __ne__ __or__ __ror__ __repr__ keys values items copy popitem".split():  # noqa: SIM905
    setattr(ReadParams, _name, _reading(_name, all_values=True))


def list_unused(params: ReadParams) -> list[str]:
    """Return the names of the values that neither `build` has read nor training uses."""
    return sorted(params.unread.difference(TRAINING_VALUES))


def find_misnamed(params: ReadParams, source: str) -> str:
    """Return an error line about the unused values that were meant for training, "" if there are none.

    Args:
        source: the text of the search space.
    """
    found = {name: meant for name in list_unused(params) if (meant := _find_meant(name)) is not None}
    outside_sample = set(_strings_outside_sample(source)) if found else set()
    hints = {
        name: _hint(meant)
        for name, meant in found.items()
        if name not in outside_sample and (meant == name or meant not in params)
    }
    names = ", ".join(f"'{name}'" for name in hints)
    return f"nothing uses {names}, which sample returned. {' '.join(dict.fromkeys(hints.values()))}" if hints else ""


def _hint(meant: str) -> str:
    if meant in TRAINING_VALUES:
        return f"Did you mean '{meant}'?"
    return f"Possible for all trials: --set {meant}=VALUE." if meant else f"It may return {', '.join(TRAINING_VALUES)}."


def _find_meant(name: str) -> str | None:
    plain = "".join(filter(str.isalnum, name.lower()))
    if plain in _MEANT:
        return _MEANT[plain]
    inside = [value for value in TRAINING_VALUES if value in name.lower()]
    if inside or "lr" in name.lower().split("_"):
        return inside[0] if inside else "learning_rate"
    near = difflib.get_close_matches(name.lower(), TRAINING_VALUES, n=1, cutoff=_LEAST_LIKENESS)
    return near[0] if near else None


def _strings_outside_sample(source: str) -> Iterator[str]:
    """Yield every string constant outside `sample`: `build` may use it to read a value."""
    for part in ast.parse(source).body:
        if not (isinstance(part, ast.FunctionDef) and part.name == "sample"):
            for node in ast.walk(part):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
