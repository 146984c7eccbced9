"""Makes the pruner that the settings name, and decides in a time that does not grow with the study.

At each report, Optuna's percentile and median pruners collect the values of all completed trials at that epoch. Here
they are kept sorted by epoch as trials end. Tests check that the decisions are the same.
"""

import math
import warnings
from bisect import insort
from collections.abc import Callable, Sequence
from typing import cast

import optuna
from optuna import pruners
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.config.settings import Settings
from mloptimizer.study.history import History

_REDUCTION_FACTOR = 3  # of successive halving: Li et al. 2018, Hyperband, section 3.6 advises 3 or 4
_FIRST_JUDGED_EPOCH = 2  # during warm-up, the first epoch says little about a model


def make_pruner(settings: Settings, history: History | None = None) -> pruners.BasePruner:
    """Return the pruner of the exploration; its steps are epochs, counted from 1.

    Args:
        history: of its study, to bound the cost of decisions; None: Optuna's own pruners.
    """

    def percentile(kept: float) -> pruners.BasePruner:
        startup = settings.pruner_startup_trials
        if history is None:
            return pruners.PercentilePruner(kept, startup, _FIRST_JUDGED_EPOCH)
        return cast(pruners.BasePruner, PercentileRule(history, kept, startup, _FIRST_JUDGED_EPOCH))

    make: dict[str, Callable[[], pruners.BasePruner]] = {
        "none": pruners.NopPruner,
        "median": lambda: percentile(50.0),
        "percentile": lambda: percentile(25.0),
        "patient": lambda: pruners.PatientPruner(percentile(50.0), patience=1),
        "asha": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION_FACTOR),
        "hyperband": lambda: pruners.HyperbandPruner(1, settings.exploration_epochs, _REDUCTION_FACTOR),
    }
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return make[settings.pruner]()


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
