"""Draws configurations from search spaces so that spaces, runs and edited files never clash in one study.

Every parameter is called ``SPACE.NAME`` in the study. Optuna refuses a parameter if its choices or kind change, so one
that did change (another list of spaces, an edited file, choices that depend on other values) continues as ``NAME~2``,
``NAME~3`` and so on: the first one that fits.
"""

import json
import random
import re
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import DatasetInfo, Failure, FailureKind, Params, Scalar
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, Suggest, sample_params

_FAMILY = "space"  # the parameter that chooses the search space
_COUNTED = re.compile(r"~\d+$")
_RANDOM_DRAWS = 1000

Guard = Callable[[], AbstractContextManager[None]]
"""Wraps access to the storage, and translates its errors into ours."""


@dataclass(frozen=True)
class Suggestion:
    """What the study proposes, to be trained unless `reused` or `failure` is set: then it has already ended."""

    number: int
    space: str
    params: Params
    reused: float | None = None  # value of the equal trial `reused_from`, when every configuration has been tried
    reused_from: int | None = None
    failure: Failure | None = None  # the space could not be sampled, or the equal trial had failed


@dataclass(frozen=True)
class Drawn:
    """A configuration that a space returned, or why it returned none."""

    space: str
    params: Mapping[str, Scalar] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def key(self) -> str:
        return configuration_key(self.space, self.params)


def configuration_key(space: str, params: Params) -> str:
    """Return a string that identifies the configuration; floats count with 12 digits (0.1 × 3 equals 0.3)."""
    plain = {name: f"{value:.12g}f" if isinstance(value, float) else value for name, value in params.items()}
    return json.dumps([space, plain], sort_keys=True)


def _categorical_kind(choices: Sequence[Any]) -> str:
    return f"categorical {tuple(map(_as_stored, choices))!r}"


def _number_kind(noun: str, log: bool) -> str:
    return f"{noun} {'log' if log else 'linear'}"


def _as_stored(choice: Any) -> Any:
    """Return the choice as a storage returns it from JSON: NumPy numbers as plain ones, tuples as lists."""
    plain = choice.tolist() if hasattr(choice, "tolist") else choice
    return [_as_stored(item) for item in plain] if isinstance(plain, (list, tuple)) else plain


class ParameterNames:
    """Knows the kind of every parameter of a study: what must never change, which for numbers excludes the range."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def learn(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Add the parameters that Optuna has stored."""
        for name, stored in distributions.items():
            if isinstance(stored, CategoricalDistribution):
                self._kinds.setdefault(name, _categorical_kind(stored.choices))
            elif isinstance(stored, (IntDistribution, FloatDistribution)):
                noun = "int" if isinstance(stored, IntDistribution) else "float"
                self._kinds.setdefault(name, _number_kind(noun, stored.log))

    def resolve(self, name: str, kind: str) -> str:
        """Return the name under which a parameter of this kind can be stored."""
        candidate, number = name, 1
        while self._kinds.get(candidate, kind) != kind:
            number += 1
            candidate = f"{name}~{number}"
        return candidate

    @staticmethod
    def is_family(name: str) -> bool:
        return _COUNTED.sub("", name) == _FAMILY

    @staticmethod
    def own_name(name: str, space: str) -> str:
        """Return the space's name for what the study calls `name`."""
        return _COUNTED.sub("", name).removeprefix(f"{space}.")


class PrefixedSuggest:
    """Passes on a space's suggest calls under the names of the study; keeps the storage's error if there is one."""

    def __init__(self, inner: Suggest, space: str, names: ParameterNames, guard: Guard) -> None:
        self._inner, self._space, self._names, self._guard = inner, space, names, guard
        self.storage_error: MloptimizerError | None = None

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return int(self._ask(self._inner.suggest_int, name, _number_kind("int", log), low, high, step=step, log=log))

    def suggest_float(self, name: str, low: float, high: float, step: float | None = None, log: bool = False) -> float:
        kind = _number_kind("float", log)
        return float(self._ask(self._inner.suggest_float, name, kind, low, high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        stored = list(map(_as_stored, choices))
        chosen = self._ask(self._inner.suggest_categorical, name, _categorical_kind(choices), stored)
        # Compared as text, because True equals 1, and NaN does not equal itself.
        return next(own for own, plain in zip(choices, stored, strict=True) if repr(plain) == repr(chosen))

    def _ask(self, suggest: Callable[..., Any], name: str, kind: str, *values: Any, **named: Any) -> Any:
        try:
            with self._guard():
                return suggest(self._names.resolve(f"{self._space}.{name}", kind), *values, **named)
        except MloptimizerError as error:
            self.storage_error = error
            raise


def draw_configuration(
    trial: Suggest, spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames, guard: Guard
) -> Drawn:
    """Return the space that the trial chooses with the values that it samples, or the failure of its `sample`.

    Raises:
        UsageError, RunError: the storage failed.
    """
    by_name = {space.name: space for space in sorted(spaces, key=lambda space: space.name)}
    family = trial.suggest_categorical(names.resolve(_FAMILY, _categorical_kind(list(by_name))), list(by_name))
    suggest = PrefixedSuggest(trial, family, names, guard)
    try:
        return Drawn(family, sample_params(by_name[family], suggest, dataset))
    except UsageError as error:
        if suggest.storage_error:
            raise suggest.storage_error from error
        stack = "".join(traceback.format_exception(error.__cause__ or error))
        return Drawn(family, failure=Failure(FailureKind.SPACE_ERROR, str(error), stack))


def draw_unseen(
    spaces: Sequence[SearchSpace],
    dataset: DatasetInfo,
    names: ParameterNames,
    seen: Container[str],
    seeds: random.Random,
) -> Mapping[str, Any] | None:
    """Return the parameters of a random new configuration, by their names in the study; None after 1,000 draws."""
    for _ in range(_RANDOM_DRAWS):
        trial = RandomSuggest(seeds.randrange(2**31))
        drawn = draw_configuration(trial, spaces, dataset, names, nullcontext)
        if drawn.failure is None and drawn.key not in seen:
            return trial.params
    return None
