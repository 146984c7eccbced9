"""Takes over what earlier studies or a person know: trials that teach the sampler, and configurations to try first.

Nothing is taken over that the search spaces of the study could not propose themselves.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.errors import UsageError
from mloptimizer.records import DatasetInfo, Params
from mloptimizer.spaces import RandomSuggest, SearchSpace
from mloptimizer.study.earlier import EarlierStudy
from mloptimizer.study.phase_study import PhaseStudy
from mloptimizer.study.suggestions import Drawn, ParameterNames, draw
from mloptimizer.study.trials import TrialStatus

COMPARED = ("fingerprint", "objective", "exploration_epochs")  # attributes: values are comparable where all are equal
_STEP_TOLERANCE = 1e-9


@dataclass(frozen=True)
class TakenOver:
    """What a warm start brought: trials that teach the sampler, configurations tried first, and what did not fit."""

    taught: int
    enqueued: int
    unfit: int
    different: tuple[str, ...] = ()  # why the earlier values are not comparable, by attribute


def take_over(
    study: PhaseStudy, earlier: EarlierStudy, spaces: Sequence[SearchSpace], dataset: DatasetInfo, best: int
) -> TakenOver:
    """Add the earlier trials that fit to the study, where values are comparable, and enqueue the best of them.

    Args:
        best: how many configurations are tried first.
    """
    different = tuple(name for name in COMPARED if earlier.attributes.get(name) != study.attributes.get(name))
    names, fitting = ParameterNames(), {}
    for trial in earlier.trials:
        given = GivenSuggest(str(trial.user_attrs["space"]), trial.user_attrs["params"])
        if find_misfit(given, spaces, dataset, names) is None:
            fitting[trial.number] = (trial, given)
    for trial, given in fitting.values() if not different else ():
        study.add(_as_taught(trial, given, earlier.name))
    first = [fitting[trial.number][1] for trial in earlier.best(best) if trial.number in fitting]
    for given in first:
        study.enqueue(given.asked)
    return TakenOver(len(fitting) if not different else 0, len(first), len(earlier.trials) - len(fitting), different)


def _as_taught(trial: FrozenTrial, given: "GivenSuggest", source: str) -> FrozenTrial:
    facts: dict[str, Any] = {
        name: trial.user_attrs[name] for name in ("space", "params", "metrics") if name in trial.user_attrs
    }
    return optuna.trial.create_trial(
        state=trial.state,
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=given.asked,
        distributions=given.distributions,
        user_attrs={**facts, "outcome": TrialStatus.TAUGHT, "taught_by": f"{source}, trial {trial.number}"},
        intermediate_values=trial.intermediate_values,
    )


def enqueue_configurations(
    study: PhaseStudy, configurations: Sequence[Mapping[str, Any]], spaces: Sequence[SearchSpace], dataset: DatasetInfo
) -> None:
    """Let the study try these configurations first, in their order; what one leaves open is drawn.

    Raises:
        UsageError: a configuration does not fit its space; nothing is enqueued then.
    """
    names, checked = ParameterNames(), []
    for number, configuration in enumerate(configurations, start=1):
        given = GivenSuggest(str(configuration.get("space", "")), _without_space(configuration), RandomSuggest(number))
        if misfit := find_misfit(given, spaces, dataset, names):
            raise UsageError(f"--enqueue, configuration {number}: {misfit}")
        checked.append({name: value for name, value in given.asked.items() if name not in given.drawn})
    for values in checked:
        study.enqueue(values)


def _without_space(configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in configuration.items() if name != "space"}


def find_misfit(
    given: "GivenSuggest", spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames
) -> str | None:
    """Return why none of the spaces could propose the values, or None if one could."""
    known = sorted(space.name for space in spaces)
    if given.space not in known:
        return f"there is no search space '{given.space}' in this search. Possible: {', '.join(known)}."
    drawn: Drawn = draw(given, spaces, dataset, names, nullcontext)
    if given.problem or drawn.failure:
        return given.problem or (drawn.failure.message if drawn.failure else None)
    unused = sorted(set(given.values) - given.used)
    if unused:
        asked = ", ".join(sorted(given.used | given.drawn_names)) or "none"
        return f"search space '{given.space}' has no parameter '{unused[0]}' here. It asks for: {asked}."
    return None


class GivenSuggest:
    """Answers a space's questions with given values; `asked` and `distributions` hold what was asked for.

    The names in these two are those of the study. What is not given is a problem, or drawn where there is `others`.
    """

    def __init__(self, space: str, values: Params, others: RandomSuggest | None = None) -> None:
        self.space, self.values = space, values
        self.asked: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.used: set[str] = set()
        self.drawn: set[str] = set()  # of `asked`, those that were not given
        self.problem = ""
        self._others = others

    @property
    def drawn_names(self) -> set[str]:
        """The space's names of what was drawn."""
        return {self._own_name(name) for name in self.drawn}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the given whole number."""
        distribution = IntDistribution(low, high, log=log, step=step)

        def fits(value: Any) -> bool:
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and low <= value <= high and (value - low) % step == 0

        drawn = (lambda others: others.suggest_int(name, low, high, step=step, log=log)) if self._others else None
        return int(self._answer(name, distribution, fits, drawn, f"a whole number from {low} to {high}"))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the given number."""
        distribution = FloatDistribution(low, high, log=log, step=step)

        def fits(value: Any) -> bool:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            on_step = number and (not step or abs(math.remainder(value - low, step)) < _STEP_TOLERANCE)
            return bool(on_step and low <= value <= high)

        drawn = (lambda others: others.suggest_float(name, low, high, step=step, log=log)) if self._others else None
        return float(self._answer(name, distribution, fits, drawn, f"a number from {low:g} to {high:g}"))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the given choice."""
        distribution = CategoricalDistribution(choices)
        if ParameterNames.is_family(name):
            self.asked[name], self.distributions[name] = self.space, distribution
            return self.space
        drawn = (lambda others: others.suggest_categorical(name, choices)) if self._others else None
        possible = f"one of {', '.join(map(str, choices))}"
        return self._answer(name, distribution, lambda value: value in choices, drawn, possible)

    def _answer(self, name: str, distribution: BaseDistribution, fits: Any, draw_other: Any, possible: str) -> Any:
        own = self._own_name(name)
        if own in self.values:
            value = self.values[own]
            self.used.add(own)
            if not fits(value):
                self.problem = f"search space '{self.space}': {own} = {value!r} is not possible. Possible: {possible}."
                raise UsageError(self.problem)
        elif draw_other is None:
            self.problem = f"search space '{self.space}': {own} is missing. Possible: {possible}."
            raise UsageError(self.problem)
        else:
            value = draw_other(self._others)
            self.drawn.add(name)
        self.asked[name], self.distributions[name] = value, distribution
        return value

    def _own_name(self, name: str) -> str:
        return name.partition("~")[0].removeprefix(f"{self.space}.")
