"""Bounds what a sampler looks at, so that a proposal costs the same however long the study is.

A sampler of Optuna's looks through all trials for every parameter. Here it sees the best and the newest ones alone,
and proposes exactly what it would propose in a study that has no others, which is tested.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from mloptimizer.study.history import Bounds, History

_PROPOSING = ("infer_relative_search_space", "sample_relative", "sample_independent")


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

    def __getattr__(self, name: str) -> Any:
        """Return the other sampler's method; while it proposes, it sees the chosen trials alone."""
        method = getattr(self._sampler, name)
        if name not in _PROPOSING:
            return method

        def propose(*arguments: Any, **named: Any) -> Any:
            with self._history.showing(self._seen):
                return method(*arguments, **named)

        return propose
