"""Bounds what a sampler looks at, so that a proposal costs the same however long the study is.

A sampler of Optuna's looks through all trials for every parameter. Here it sees the best and the newest ones alone,
and proposes exactly what it would propose in a study that has no others, which is tested.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.study.history import Bounds, History


class BoundedSampler:
    """A sampler of Optuna's, around another one."""

    def __init__(self, sampler: BaseSampler, history: History, bounds: Bounds) -> None:
        self._sampler, self._history, self._bounds = sampler, history, bounds
        self._seen: Sequence[FrozenTrial] = ()  # for the trial that is being proposed; meanwhile nothing else happens

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Be ready for another trial."""
        self._seen = self._history.select(self._bounds)
        with self._history.showing(self._seen):
            self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together."""
        with self._history.showing(self._seen):
            return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Mapping[str, Any]:
        """Return the values of these parameters."""
        with self._history.showing(self._seen):
            return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter that is drawn by itself."""
        with self._history.showing(self._seen):
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass it on."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Pass it on."""
        self._sampler.reseed_rng()
