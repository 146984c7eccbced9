"""Makes the sampler that the settings name.

Guarantees: a missing optional package is one line that names the extra; there are no warnings.
"""

import importlib.util
import logging
import warnings
from typing import cast

from optuna import samplers
from optuna.exceptions import ExperimentalWarning

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.study.bounded_sampler import BoundedSampler
from mloptimizer.study.history import Bounds, History

_BEST_TRIALS = 50  # that TPE always sees: its good ones, at most 25, and their rivals
_RUNNING_TRIALS = 16  # that TPE sees, the newest ones, to avoid them


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
