"""Opens storages for the tests of them."""

from pathlib import Path

import optuna
import pytest

from mloptimizer.errors import MloptimizerError
from mloptimizer.study.storage import open_storage


def create(url: str, journal: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(url, journal), study_name="s")


def open_error(url: str, journal: Path = Path("unused.journal"), *, read_only: bool = False) -> MloptimizerError:
    with pytest.raises(MloptimizerError) as caught:
        open_storage(url, journal, read_only=read_only)
    assert "\n" not in str(caught.value)
    return caught.value
