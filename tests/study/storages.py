"""Opens storages for the tests of them."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from mloptimizer.core.errors import MloptimizerError, RunError
from mloptimizer.study.storage import open_storage


def create(url: str, journal: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(url, journal), study_name="s")


def open_error(url: str, journal: Path = Path("unused.journal"), *, read_only: bool = False) -> MloptimizerError:
    with pytest.raises(MloptimizerError) as caught:
        open_storage(url, journal, read_only=read_only)
    assert "\n" not in str(caught.value)
    return caught.value


def wait_and(act: Callable[[], object], troubles: list[str], after: int = 2) -> Callable[[str], None]:
    """Return a wait that acts at that call of it; more calls than that are a failure."""

    def wait(trouble: str) -> None:
        troubles.append(trouble)
        assert len(troubles) <= after
        if len(troubles) == after:
            act()

    return wait


def give_up(trouble: str) -> None:
    raise RunError(trouble)
