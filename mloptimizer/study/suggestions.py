"""Draws configurations from search spaces so that families, runs and edited files never clash within one study.

Every parameter is called ``SPACE.NAME`` in the study. Optuna refuses a parameter whose choices or kind change, so one
that did change (another list of spaces, an edited file, choices that depend on other values) goes on as ``NAME~2``,
``NAME~3`` and so on: the first fitting one.
"""

import json
import random
import re
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import DatasetInfo, Failure, FailureKind, Params, Scalar
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, Suggest, sample_params

_FAMILY = "space"  # the parameter that chooses the family
_COUNTED = re.compile(r"~\d+$")
_RANDOM_DRAWS = 1000

Guard = Callable[[], AbstractContextManager[None]]
"""Surrounds what reaches the storage, and turns its errors into ours."""


@dataclass(frozen=True)
class Suggestion:
    """What the study proposes; it is to be trained unless `reused` or `failure` says how it ended already."""

    number: int
    space: str
    params: Params
    reused: float | None = None  # the value of the equal trial `reused_from`: every configuration has been tried
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
    """Return a text that is equal for equal configurations; floats count with 12 digits (0.1 × 3 equals 0.3)."""
    plain = {name: f"{value:.12g}f" if isinstance(value, float) else value for name, value in params.items()}
    return json.dumps([space, plain], sort_keys=True)


def categorical_kind(choices: Sequence[Any]) -> str:
    """Return what Optuna wants to be the same for ever about a choice."""
    return f"categorical {tuple(map(as_stored, choices))!r}"


def as_stored(choice: Any) -> Any:
    """Return the choice as a storage gives it back, in JSON: of NumPy's numbers plain ones, of tuples lists."""
    plain = choice.tolist() if hasattr(choice, "tolist") else choice
    return [as_stored(item) for item in plain] if isinstance(plain, (list, tuple)) else plain


def number_kind(noun: str, log: bool) -> str:
    """Return what Optuna wants to be the same for ever about a number; its range may change."""
    return f"{noun} {'log' if log else 'linear'}"


class ParameterNames:
    """Knows the kind of every parameter of a study, and under which name the next value of a kind can be stored."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def learn(self, name: str, kind: str) -> None:
        self._kinds.setdefault(name, kind)

    def resolve(self, name: str, kind: str) -> str:
        candidate, number = name, 1
        while self._kinds.get(candidate, kind) != kind:
            number += 1
            candidate = f"{name}~{number}"
        return candidate

    def resolve_family(self, spaces: Sequence[SearchSpace]) -> str:
        return self.resolve(_FAMILY, categorical_kind(sorted(space.name for space in spaces)))

    @staticmethod
    def is_family(name: str) -> bool:
        return _COUNTED.sub("", name) == _FAMILY

    @staticmethod
    def own_name(name: str, space: str) -> str:
        """Return the name under which the space asks for what the study calls `name`."""
        return _COUNTED.sub("", name).removeprefix(f"{space}.")


class PrefixedSuggest:
    """Passes a space's questions on under their names in the study; keeps the storage's error if there was one."""

    def __init__(self, inner: Suggest, space: str, names: ParameterNames, guard: Guard) -> None:
        self._inner = inner
        self._space = space
        self._names = names
        self._guard = guard
        self.storage_error: MloptimizerError | None = None

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        full = self._resolve(name, number_kind("int", log))
        return int(self._ask(lambda: self._inner.suggest_int(full, low, high, step=step, log=log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        full = self._resolve(name, number_kind("float", log))
        return float(self._ask(lambda: self._inner.suggest_float(full, low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        full, stored = self._resolve(name, categorical_kind(choices)), list(map(as_stored, choices))
        chosen = self._ask(lambda: self._inner.suggest_categorical(full, stored))
        # True is no 1, and NaN is not even itself.
        return next(own for own, plain in zip(choices, stored, strict=True) if repr(plain) == repr(chosen))

    def _resolve(self, name: str, kind: str) -> str:
        return self._names.resolve(f"{self._space}.{name}", kind)

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            with self._guard():
                return question()
        except MloptimizerError as error:
            self.storage_error = error
            raise


def draw_configuration(
    trial: Suggest, spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames, guard: Guard
) -> Drawn:
    """Let the trial choose a space, and the space its values.

    Returns:
        The configuration, or the failure of the person's `sample`.

    Raises:
        UsageError, RunError: the storage failed.
    """
    by_name = {space.name: space for space in sorted(spaces, key=lambda space: space.name)}
    family = trial.suggest_categorical(names.resolve_family(spaces), list(by_name))
    suggest = PrefixedSuggest(trial, family, names, guard)
    try:
        return Drawn(family, sample_params(by_name[family], suggest, dataset))
    except UsageError as error:
        if suggest.storage_error:
            raise suggest.storage_error from error
        story = "".join(traceback.format_exception(error.__cause__ or error))
        return Drawn(family, failure=Failure(FailureKind.SPACE_ERROR, str(error), story))


def draw_unseen(
    spaces: Sequence[SearchSpace],
    dataset: DatasetInfo,
    names: ParameterNames,
    seen: Container[str],
    seeds: random.Random,
) -> Mapping[str, Any] | None:
    """Draw at random, in memory, until a configuration is new.

    Returns:
        Its parameters by their names in the study; None after 1,000 draws without one.
    """
    for _ in range(_RANDOM_DRAWS):
        trial = RandomSuggest(seeds.randrange(2**31))
        drawn = draw_configuration(trial, spaces, dataset, names, nullcontext)
        if drawn.failure is None and drawn.key not in seen:
            return trial.params
    return None
