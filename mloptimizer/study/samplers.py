"""Makes the sampler and the pruner that the settings name.

Guarantees: a missing optional package is one line that names the extra; there are no warnings.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import cast

from optuna import pruners, samplers
from optuna.exceptions import ExperimentalWarning

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.study.bounded_sampler import BoundedSampler
from mloptimizer.study.history import Bounds, History
from mloptimizer.study.pruning import PercentileRule

_REDUCTION_FACTOR = 3  # of successive halving: Li et al. 2018, Hyperband, section 3.6 advises 3 or 4
_BEST_TRIALS = 50  # that TPE always sees: its good ones, at most 25, and their rivals
_RUNNING_TRIALS = 16  # that TPE sees, the newest ones, to avoid them
_FIRST_JUDGED_EPOCH = 2  # during warm-up, the first epoch says little about a model


def make_sampler(settings: Settings, seed: int, history: History | None = None) -> samplers.BaseSampler:
    """Return the sampler; gp, cmaes and qmc leave to others what they cannot draw jointly (categories, branches).

    Args:
        history: of its study, to bound the cost of TPE's proposals; None: Optuna's own TPE.

    Raises:
        UsageError: the sampler needs an extra that is not installed.
    """
    logging.getLogger("optuna.samplers").setLevel(logging.ERROR)  # or it warns of each value that is drawn separately
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        if settings.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if settings.sampler == "qmc":
            return samplers.QMCSampler(
                seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
            )
        tpe = samplers.TPESampler(multivariate=True, constant_liar=True, group=settings.sampler_group, seed=seed)
        if settings.sampler in ("gp", "cmaes"):
            package = "torch" if settings.sampler == "gp" else "cmaes"
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"sampler = {settings.sampler}: the package '{package}' is not installed. Install it with "
                    f"pip install 'mloptimizer[{settings.sampler}]', or choose tpe, qmc or random."
                )
            make = samplers.GPSampler if settings.sampler == "gp" else samplers.CmaEsSampler
            return make(seed=seed, independent_sampler=tpe, warn_independent_sampling=False)
        if history is None or not settings.sampler_history:
            return tpe
        bounds = Bounds(_BEST_TRIALS, settings.sampler_history, _RUNNING_TRIALS)
        return cast(samplers.BaseSampler, BoundedSampler(tpe, history, bounds))


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
