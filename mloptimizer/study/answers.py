"""Answers the suggest calls of a search space with given values, and checks that the space could propose them.

A space may suggest `adamw_learning_rate` and return `learning_rate`. People and exports know the returned names, the
study the suggested ones: `complete_configuration` finds the latter for the former, and `fit` checks them in a study.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace
from mloptimizer.study.suggestions import ParameterNames, configuration_key, draw_configuration

_LOOKS = 16  # random draws in which a returned value must equal a suggested one
_COMPLETIONS = 100  # random draws of the missing values until they fit the given ones
_STEP_TOLERANCE = 1e-8  # of a step, as Optuna allows
_LONGEST_VALUE = 60
_IMPOSSIBLE = object()

Distribution = IntDistribution | FloatDistribution | CategoricalDistribution


@dataclass(frozen=True)
class Answers:
    """A search space's name, and the values of a configuration by the names that the space suggests."""

    space: str
    values: Params


@dataclass(frozen=True)
class Fitting:
    """The configuration that a space makes of answers, and the answers as a study stores them."""

    space: str
    params: Params
    asked: Mapping[str, Any]
    distributions: Mapping[str, Distribution]

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
    """Return answers from which the space makes the configuration; missing values are drawn at random.

    Args:
        configuration: `space`, and values by the names that the space returns or suggests.

    Raises:
        UsageError: the space could not propose it.
    """
    space = str(configuration["space"])
    values = {name: value for name, value in configuration.items() if name != "space"}
    aliases: dict[str, str] = {}
    while found := _find_aliases(Answers(space, values), aliases, spaces, dataset):
        aliases |= found
    problem: UsageError | None = None
    for seed in range(_COMPLETIONS):
        given = _Given(space, values, aliases, RandomSuggest(seed))
        try:
            _check_made(given, given.draw(spaces, dataset, ParameterNames()))
            return Answers(space, given.answers)
        except UsageError as error:  # the random values may not fit the given ones
            problem = problem or error
    raise problem or UsageError(f"search space '{space}': cannot be sampled.")


def _find_aliases(
    wanted: Answers, known: Mapping[str, str], spaces: Sequence[SearchSpace], dataset: DatasetInfo
) -> dict[str, str]:
    """Return the given name for each suggested name whose value the space always returns under the given name."""
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
                f"search space '{given.space}': {name} = {_short(value)} does not fit the other values: the space "
                f"makes {_short(params[name])} of it. It asks for: {given.questions}."
            )


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, (bool, str)) or isinstance(other, (bool, str)):
        return type(one) is type(other) and one == other
    return f"{one:.12g}" == f"{other:.12g}"  # as `configuration_key` compares floats


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


class _Given:
    """A trial that answers with given values; a missing one is an error, or drawn from `others`."""

    def __init__(
        self, space: str, values: Params, aliases: Mapping[str, str] | None = None, others: RandomSuggest | None = None
    ) -> None:
        """Args: aliases: names among the values, by the name that the space suggests instead."""
        self.space, self.values = space, values
        self.answers: dict[str, Any] = {}  # by suggested name
        self.drawn: set[str] = set()  # suggested names that were not given
        self.used: set[str] = set()  # given names that were asked for
        self.asked: dict[str, Any] = {}  # by the names of the study
        self.distributions: dict[str, Distribution] = {}
        self._aliases, self._others = aliases or {}, others
        self._problem: UsageError | None = None

    def draw(self, spaces: Sequence[SearchSpace], dataset: DatasetInfo, names: ParameterNames) -> Params:
        """Return the configuration that the space makes; raise UsageError if it could not propose it."""
        known = [space.name for space in spaces]
        if self.space not in known:
            raise unknown_name("this search", "search space", self.space, known)
        drawn = draw_configuration(self, spaces, dataset, names, nullcontext)
        if self._problem:  # `sample` may have swallowed it
            raise self._problem
        if drawn.failure:
            raise UsageError(drawn.failure.message)
        return drawn.params

    @property
    def questions(self) -> str:
        """The names that the space asked for."""
        return ", ".join(sorted(self.answers)) or "nothing"

    def not_asked(self, name: str) -> UsageError:
        """Return the error for a value that the space does not ask for."""
        return UsageError(
            f"search space '{self.space}': does not ask for '{name}' here. It asks for: {self.questions}."
        )

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_float(self, name: str, low: float, high: float, step: float | None = None, log: bool = False) -> float:
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if ParameterNames.is_family(name):
            self.asked[name], self.distributions[name] = self.space, CategoricalDistribution(choices)
            return self.space
        return self._answer(name, CategoricalDistribution(choices))

    def _answer(self, name: str, distribution: Distribution) -> Any:
        own = ParameterNames.own_name(name, self.space)
        given = own if own in self.values else self._aliases.get(own)
        if given is not None:
            self.used.add(given)
            answer = _find(distribution, self.values[given])
            if answer is _IMPOSSIBLE:
                raise self._complain(f"{given} = {_short(self.values[given])} is not possible", distribution)
        elif self._others is None:
            raise self._complain(f"'{own}' is missing", distribution)
        else:
            answer = _draw(distribution, self._others, name)
            self.drawn.add(own)
        self.answers[own] = self.asked[name] = answer
        self.distributions[name] = distribution
        return answer

    def _complain(self, problem: str, distribution: Distribution) -> UsageError:
        self._problem = UsageError(f"search space '{self.space}': {problem}. Possible: {_describe(distribution)}.")
        return self._problem


def _find(distribution: Distribution, value: Any) -> Any:
    """Return the value as a member of the distribution, `_IMPOSSIBLE` if it is none."""
    if isinstance(distribution, CategoricalDistribution):
        alike = [choice for choice in distribution.choices if isinstance(choice, bool) == isinstance(value, bool)]
        return next((choice for choice in alike if choice == value), _IMPOSSIBLE)
    kind = int if isinstance(distribution, IntDistribution) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not distribution.low <= value <= distribution.high:
        return _IMPOSSIBLE  # NaN, too
    steps = (value - distribution.low) / (distribution.step or 1)
    if distribution.step is not None and abs(steps - round(steps)) >= _STEP_TOLERANCE:
        return _IMPOSSIBLE
    return value if isinstance(distribution, IntDistribution) else float(value)


def _draw(distribution: Distribution, random: RandomSuggest, name: str) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return random.suggest_categorical(name, distribution.choices)
    suggest: Any = random.suggest_int if isinstance(distribution, IntDistribution) else random.suggest_float
    return suggest(name, distribution.low, distribution.high, distribution.step, distribution.log)


def _describe(distribution: Distribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        return f"an integer from {low} to {high}{f' in steps of {step}' if step != 1 else ''}"
    return f"a number from {low:g} to {high:g}{f' in steps of {step:g}' if step else ''}"
