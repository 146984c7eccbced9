"""Lets Optuna's TPE propose the parameters of a family together, from a bounded number of trials.

TPE by itself draws together what all trials have in common, which in a search over several families is the family
alone; everything else it would draw one by one, and look through all trials for each. Here it is asked once for all
that the trials of the chosen family have in common, and once more wherever a branch opens further parameters. So a
proposal takes a few looks, in which only the best and the newest trials are seen: it costs the same in a long study.

TPE takes what it knows from the storage of its study and nowhere else, which a test holds.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.study.history import LEARNED_FROM, History

_BEST_TRIALS = 50  # that are always seen: TPE's good ones, 25 at most, and their rivals


class FamilySampler:
    """A sampler of Optuna's, around its TPE."""

    def __init__(self, tpe: BaseSampler, history: History, newest: int, best: int = _BEST_TRIALS) -> None:
        """Args: newest: so many trials are seen beside the best; 0: all are seen."""
        self._tpe, self._history, self._newest, self._best = tpe, history, newest, best
        self._commons: dict[str, _Common] = {}  # by a parameter that was asked for
        self._drawn: dict[str, Any] = {}  # values for the trial that is being proposed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together before the family is known."""
        with self._bounded():
            return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Mapping[str, Any]:
        """Return the values of the parameters that are drawn together before the family is known."""
        with self._bounded():
            return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the parameter's value, drawn with those that the trials with this parameter have in common."""
        value = self._drawn.get(param_name)
        if value is None or not _holds(param_distribution, value):
            with self._bounded():
                if space := self._find_common(trial, param_name, param_distribution):
                    self._drawn |= self._tpe.sample_relative(study, trial, space)
                if (value := self._drawn.get(param_name)) is None or not _holds(param_distribution, value):
                    value = self._tpe.sample_independent(study, trial, param_name, param_distribution)
        return value

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Be ready for another trial."""
        self._drawn = {}
        self._tpe.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass it on."""
        self._tpe.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Pass it on."""
        self._tpe.reseed_rng()

    def _bounded(self) -> AbstractContextManager[None]:
        return self._history.bounded(self._best, self._newest) if self._newest else nullcontext()

    def _find_common(
        self, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> dict[str, BaseDistribution] | None:
        """Return what is to be drawn together with the parameter; None where it is not in common with itself."""
        common = self._commons.setdefault(name, _Common(self._history, name))
        space = common.find()
        if space.get(name) != distribution:
            return None
        return {other: space[other] for other in sorted(space) if other not in trial.params}


class _Common:
    """The parameters, with their distributions, that all trials with a given parameter have in common."""

    def __init__(self, history: History, name: str) -> None:
        self._history, self._name = history, name
        self._read = 0  # of the history's ended trials
        self._space: dict[str, BaseDistribution] | None = None  # None: there is no such trial

    def find(self) -> Mapping[str, BaseDistribution]:
        for trial in self._history.ended[self._read :]:
            if trial.state not in LEARNED_FROM or self._name not in trial.distributions:
                continue
            known = trial.distributions if self._space is None else self._space
            self._space = {
                name: distribution
                for name, distribution in known.items()
                if trial.distributions.get(name) == distribution and not distribution.single()
            }
        self._read = len(self._history.ended)
        return self._space or {}


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution has the value: a space may have been edited, or its range depends on other values."""
    try:
        internal = distribution.to_internal_repr(value)
    except ValueError:  # no such choice
        return False
    return bool(distribution._contains(internal))
