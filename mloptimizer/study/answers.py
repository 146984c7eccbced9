"""Answers a search space's questions with given values: tells whether it could propose them, and what it makes of them.

A space may ask for `adamw_learning_rate` and return `learning_rate`. People and exports know the returned names, the
study the asked ones; `complete_configuration` leads from the former to the latter, `fit` goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace
from mloptimizer.study.suggestions import ParameterNames, configuration_key, draw_configuration

_LOOKS = 16  # random draws in which a returned name has to hold the same as an asked one
_COMPLETIONS = 100  # random draws of what is left open, until the rest fits to it
_STEP_TOLERANCE = 1e-8  # of a step, as Optuna allows
_LONGEST_VALUE = 60
_IMPOSSIBLE = object()


@dataclass(frozen=True)
class Answers:
    """A search space's name, and the values of a configuration by the names under which it asks for them."""

    space: str
    values: Params


@dataclass(frozen=True)
class Fitting:
    """The configuration that a space makes of answers, and these under the names and kinds that a study stores."""

    space: str
    params: Params
    asked: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]

    @property
    def key(self) -> str:
        return configuration_key(self.space, self.params)


def fit(answers: Answers, spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames) -> Fitting:
    """Return what the space makes of the answers. Raises UsageError: none of the spaces could propose them."""
    given = _Given(answers.space, answers.values)
    params = given.draw(spaces, dataset, names)
    for name in answers.values:
        if name not in given.used:
            raise given.not_asked(name)
    return Fitting(answers.space, params, given.asked, given.distributions)


def complete_configuration(configuration: Params, spaces: Sequence[SearchSpace], dataset: DatasetInfo) -> Answers:
    """Return the answers of which the space makes the configuration; what it leaves open is drawn at random.

    Args:
        configuration: `space`, and values by the names that the space returns or asks for.

    Raises:
        UsageError: the space could not propose it.
    """
    space = str(configuration["space"])
    values = {name: value for name, value in configuration.items() if name != "space"}
    aliases: dict[str, str] = {}
    while found := _find_aliases(Answers(space, values), aliases, spaces, dataset):
        aliases = {**aliases, **found}
    problem: UsageError | None = None
    for seed in range(_COMPLETIONS):
        given = _Given(space, values, aliases, RandomSuggest(seed))
        try:
            _check_made(given, given.draw(spaces, dataset, ParameterNames()))
            return Answers(space, given.answers)
        except UsageError as error:  # what was drawn may not go with the rest
            problem = problem or error
    raise problem or UsageError(f"search space '{space}': cannot be sampled.")


def _find_aliases(
    wanted: Answers, known: Mapping[str, str], spaces: Sequence[SearchSpace], dataset: DatasetInfo
) -> Mapping[str, str]:
    """Return which given name stands for a name that the space asks for: it returns the same under it every time."""
    candidates: dict[str, set[str]] = {}
    for seed in range(_LOOKS):
        given = _Given(wanted.space, wanted.values, known, RandomSuggest(seed))
        try:
            params = given.draw(spaces, dataset, ParameterNames())
        except UsageError:
            continue
        for name in given.drawn:
            free = params.keys() & given.values.keys() - given.used
            same = {other for other in free if _is_same(params[other], given.answers[name])}
            candidates[name] = candidates.get(name, same) & same
    return {name: others.pop() for name, others in candidates.items() if len(others) == 1}


def _check_made(given: "_Given", params: Params) -> None:
    for name, value in given.values.items():
        if name not in params and name not in given.used:
            raise given.not_asked(name)
        if name in params and not _is_same(params[name], value):
            raise UsageError(
                f"search space '{given.space}': {name} = {_short(value)} does not go with the rest: the space makes "
                f"{_short(params[name])} of it. It asks for: {given.questions}."
            )


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and one == other
    return f"{one:.12g}" == f"{other:.12g}"  # floats count with so many digits in configurations


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


class _Given:
    """Answers with given values; what is not given is a problem, or drawn where there is `others`."""

    def __init__(
        self, space: str, values: Params, aliases: Mapping[str, str] | None = None, others: RandomSuggest | None = None
    ) -> None:
        """Args: aliases: the name among the values, by another name under which the space asks for it."""
        self.space, self.values = space, values
        self.answers: dict[str, Any] = {}  # by the names under which the space asks
        self.drawn: set[str] = set()  # of these, what was not given
        self.used: set[str] = set()  # the given names that were asked for
        self.asked: dict[str, Any] = {}  # by the names of the study
        self.distributions: dict[str, BaseDistribution] = {}
        self._aliases, self._others = aliases or {}, others
        self._problem: UsageError | None = None

    def draw(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames) -> Params:
        """Return the configuration that the space makes; raise UsageError where it could not propose it."""
        known = [space.name for space in spaces]
        if self.space not in known:
            raise unknown_name("this search", "search space", self.space, known)
        drawn = draw_configuration(self, spaces, dataset, names, nullcontext)
        if self._problem:  # also where `sample` has swallowed it
            raise self._problem
        if drawn.failure:
            raise UsageError(drawn.failure.message)
        return drawn.params

    @property
    def questions(self) -> str:
        """The names that the space asked for, in words."""
        return ", ".join(sorted(self.answers)) or "nothing"

    def not_asked(self, name: str) -> UsageError:
        """Return the error for a value that the space does not ask for."""
        return UsageError(
            f"search space '{self.space}': does not ask for '{name}' here. It asks for: {self.questions}."
        )

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the given whole number."""

        def find(value: Any) -> Any:
            whole = isinstance(value, int) and not isinstance(value, bool)
            return value if whole and low <= value <= high and (value - low) % step == 0 else _IMPOSSIBLE

        def other(others: RandomSuggest) -> int:
            return others.suggest_int(name, low, high, step=step, log=log)

        steps = f" in steps of {step}" if step != 1 else ""
        possible = f"a whole number from {low} to {high}{steps}"
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step), find, other, possible))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the given number."""

        def find(value: Any) -> Any:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:  # NaN is not either
                return _IMPOSSIBLE
            steps = (value - low) / step if step else 0.0
            return float(value) if abs(steps - round(steps)) < _STEP_TOLERANCE else _IMPOSSIBLE

        def other(others: RandomSuggest) -> float:
            return others.suggest_float(name, low, high, step=step, log=log)

        steps = f" in steps of {step:g}" if step else ""
        possible = f"a number from {low:g} to {high:g}{steps}"
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step), find, other, possible))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the given choice."""
        distribution = CategoricalDistribution(choices)
        if ParameterNames.is_family(name):
            self.asked[name], self.distributions[name] = self.space, distribution
            return self.space

        def find(value: Any) -> Any:
            alike = [choice for choice in choices if isinstance(choice, bool) == isinstance(value, bool)]
            return next((choice for choice in alike if choice == value), _IMPOSSIBLE)

        def other(others: RandomSuggest) -> Any:
            return others.suggest_categorical(name, choices)

        return self._answer(name, distribution, find, other, f"one of {', '.join(map(str, choices))}")

    def _answer(
        self,
        name: str,
        distribution: BaseDistribution,
        find: Callable[[Any], Any],
        other: Callable[[RandomSuggest], Any],
        possible: str,
    ) -> Any:
        own = ParameterNames.own_name(name, self.space)
        given = own if own in self.values else self._aliases.get(own)
        if given is not None:
            self.used.add(given)
            answer = find(self.values[given])
            if answer is _IMPOSSIBLE:
                raise self._complain(f"{given} = {_short(self.values[given])} is not possible", possible)
        elif self._others is None:
            raise self._complain(f"'{own}' is missing", possible)
        else:
            answer = other(self._others)
            self.drawn.add(own)
        self.answers[own] = self.asked[name] = answer
        self.distributions[name] = distribution
        return answer

    def _complain(self, problem: str, possible: str) -> UsageError:
        self._problem = UsageError(f"search space '{self.space}': {problem}. Possible: {possible}.")
        return self._problem
