"""The only module that uses private parts of Optuna: the ids of trials, and what its cache calls in a database.

`tests/study/test_optuna_internals.py` fails when Optuna changes any of them.
"""

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

CREATE_TRIAL = "_create_new_trial"
CACHE_OPERATIONS = (  # what optuna.storages._CachedStorage calls besides the public methods of a storage
    CREATE_TRIAL,
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "record_heartbeat",
)


def id_of(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the storage's id of the trial."""
    return trial._trial_id


def create_trial(storage: RDBStorage, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
    """Create a trial, as the cache in front of the database does.

    Raises:
        sqlalchemy.exc.DBAPIError: the server is unreachable.
    """
    with storage.engine.begin():
        pass  # Optuna itself would try five times, seconds apart, before it reports that
    return RDBStorage._create_new_trial(storage, study_id, template_trial)  # `storage`'s own may be this function
