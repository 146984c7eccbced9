"""What Optuna keeps to itself and `optuna_internals` relies on; a version that changes it fails here."""

import inspect
import re

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage

from mloptimizer.study.optuna_internals import CACHE_OPERATIONS, create_trial, id_of


def test_trials_have_the_ids_that_their_storage_knows_them_by() -> None:
    storage = InMemoryStorage()
    for name in ("other", "study"):
        study = optuna.create_study(storage=storage, study_name=name)
        asked = study.ask()
    (frozen,) = study.get_trials()
    assert id_of(asked) == id_of(frozen)
    assert storage.get_trial(id_of(frozen)).number == 0
    assert id_of(optuna.Trial(study, id_of(frozen))) == id_of(frozen)


def test_the_cache_calls_nothing_of_a_database_that_is_not_tried_again() -> None:
    called = set(re.findall(r"self\._backend\.(\w+)\(", inspect.getsource(_CachedStorage)))
    heartbeats = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}  # ask no server
    assert called - set(vars(BaseStorage)) - heartbeats <= set(CACHE_OPERATIONS)
    assert all(callable(getattr(RDBStorage, name)) for name in CACHE_OPERATIONS)


def test_a_trial_is_created_as_the_cache_creates_it() -> None:
    storage = RDBStorage("sqlite://")
    study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "study")
    waiting = optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING)
    assert [create_trial(storage, study_id).number, create_trial(storage, study_id, waiting).number] == [0, 1]
