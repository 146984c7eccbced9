"""Reads the earlier studies of a storage, and the trials of one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.core.nouns import Objective, Phase
from mloptimizer.core.study_names import HALL_OF_FAME_SUFFIX
from mloptimizer.study.storage import open_storage, storage_errors, storage_place
from mloptimizer.study.trials import TrialStatus, summarize

_IMPORTABLE = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.IMPORTED)


@dataclass(frozen=True)
class EarlierStudy:
    """The exploration of a stored study."""

    name: str
    attributes: Mapping[str, Any]
    trials: Sequence[FrozenTrial]  # completed or pruned, with space and parameters

    def ranked(self) -> list[FrozenTrial]:
        """Return the completed trials, the best first."""
        completed = [t for t in self.trials if t.state is TrialState.COMPLETE and t.value is not None]
        sign = -1 if Objective(str(self.attributes.get("objective"))).maximize else 1
        return sorted(completed, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def list_stored_studies(url: str, journal: Path) -> list[str]:
    """Return the names of all studies in the storage, including those that mloptimizer did not make.

    Raises:
        UsageError, RunError: the storage cannot be opened, or failed.
    """
    storage = open_storage(url, journal, read_only=True)
    with storage_errors(url, journal):
        return sorted(study.study_name for study in storage.get_all_studies())


def read_earlier_study(url: str, journal: Path, name: str) -> EarlierStudy:
    """Return the study of this name.

    Raises:
        UsageError: there is no such study, or mloptimizer did not make it.
        RunError: the storage failed.
    """
    place = storage_place(url, journal)
    storage = open_storage(url, journal, read_only=True)
    with storage_errors(url, journal):
        studies = [study.study_name for study in storage.get_all_studies()]
        names = [study for study in studies if not study.endswith(HALL_OF_FAME_SUFFIX)]  # its trials are long
        if name not in names:
            raise unknown_name(f"--warm-start: {place}", "study", name, names)
        study = optuna.load_study(study_name=name, storage=storage)
        attributes = study.user_attrs
        if "objective" not in attributes:
            raise UsageError(f"--warm-start: the study '{name}' in {place} was not made by mloptimizer.")
        trials = [t for t in study.get_trials(deepcopy=False) if "params" in t.user_attrs]
        statuses = {
            t.number: summarize(t, Phase.EXPLORATION).status for t in trials if "reused_from" not in t.user_attrs
        }
        return EarlierStudy(name, attributes, [t for t in trials if statuses.get(t.number) in _IMPORTABLE])
