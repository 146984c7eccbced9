"""Makes the decisions of Optuna's percentile and median pruners in a time that does not grow with the study.

At each report, Optuna collects the values of all completed trials at that epoch. Here they are kept sorted by epoch as
trials end. Tests check that the decisions are the same as those of Optuna's own pruners.
"""

import math
from bisect import insort
from collections.abc import Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.study.history import History


class PercentileRule:
    """Prunes trials whose best value so far is worse than a percentile of the completed trials at the same epoch."""

    def __init__(self, history: History, percentile: float, startup_trials: int, first_epoch: int) -> None:
        """Args:
        percentile: 0 to 100; 50 is the median, 25 keeps the best quarter.
        startup_trials: no trial is pruned before this many are completed.
        first_epoch: no trial is pruned before this epoch.
        """
        self._history = history
        self._percentile, self._startup_trials, self._first_epoch = percentile, startup_trials, first_epoch
        self._read = 0  # of the history's ended trials
        self._completed = 0
        self._values: dict[int, list[float]] = {}  # sorted, by epoch

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to prune the trial after its last report, as an Optuna pruner."""
        self._catch_up()
        epoch = trial.last_step
        if self._completed == 0 or self._completed < self._startup_trials:
            return False
        if epoch is None or epoch < self._first_epoch or not (values := self._values.get(epoch)):
            return False
        reported = trial.intermediate_values.values()
        if study.direction == StudyDirection.MAXIMIZE:
            return max(reported) < interpolate(values, 100 - self._percentile)
        return min(reported) > interpolate(values, self._percentile)

    def _catch_up(self) -> None:
        for trial in self._history.ended[self._read :]:
            if trial.state is TrialState.COMPLETE:
                self._completed += 1
                for epoch, value in trial.intermediate_values.items():
                    insort(self._values.setdefault(epoch, []), value)
        self._read = len(self._history.ended)


def interpolate(values: Sequence[float], percentile: float) -> float:
    """Return the percentile (0 to 100) of sorted values, to the last bit as NumPy's method "linear" does.

    >>> interpolate([1.0, 2.0, 4.0], 75.0)
    3.0
    """
    place = (len(values) - 1) * (percentile / 100)
    low = math.floor(place)
    share = place - low
    below, above = values[low], values[min(low + 1, len(values) - 1)]
    if share >= 0.5:  # from the nearer of the two, which is more accurate
        return above - (above - below) * (1 - share)
    return below + (above - below) * share
