"""Limits the trials that a sampler reads, so that the cost of a proposal does not grow with the study.

Optuna's samplers read all trials for every parameter. Here they see only the best and the newest ones, and propose
exactly what they would propose in a study without the others, which is tested.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from mloptimizer.study.history import Bounds, History

_PROPOSING = ("infer_relative_search_space", "sample_relative", "sample_independent")


class BoundedSampler:
    """An Optuna sampler that wraps another one."""

    def __init__(self, sampler: BaseSampler, history: History, bounds: Bounds) -> None:
        self._sampler, self._history, self._bounds = sampler, history, bounds
        self._seen: Sequence[FrozenTrial] = ()  # for the proposal in progress: there is only one at a time

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Select the trials for the next proposal."""
        self._seen = self._history.select(self._bounds)
        with self._history.showing(self._seen):
            self._sampler.before_trial(study, trial)

    def __getattr__(self, name: str) -> Any:
        """Return the other sampler's method; while it proposes, it sees only the selected trials."""
        method = getattr(self._sampler, name)
        if name not in _PROPOSING:
            return method

        def propose(*arguments: Any, **named: Any) -> Any:
            with self._history.showing(self._seen):
                return method(*arguments, **named)

        return propose
