from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Phase
from mloptimizer.core.study_names import check_study_name
from mloptimizer.store.workspace import Workspace


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "a\\b", "..", ".hidden", "", "a..b", "a b", "-x", "ü", "a\n", "x" * 101, "a:b", "C:"]
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not possible. Possible: up to 100 letters"):
        check_study_name(name)


def test_the_suffix_of_the_second_phase_is_refused() -> None:
    with pytest.raises(UsageError, match="reserved"):
        check_study_name("digits-hall-of-fame")


@pytest.mark.parametrize("name", ["digits", "digits-2", "a.b_c", "7", "x" * 100])
def test_plain_names_are_taken(name: str) -> None:
    assert check_study_name(name) == name


def test_each_phase_of_a_trial_has_a_folder_and_a_log_of_its_own() -> None:
    workspace = Workspace(Path("w"))
    assert workspace.trial("digits", 7) == Path("w/metrics_data/digits/trial_00007")
    assert workspace.trial("digits", 7, Phase.HALL_OF_FAME).name == "hall_of_fame_00007"
    assert workspace.hardware_log("digits", 7) == Path("w/hardware_performance_logs/digits/trial_00007.csv")


def test_asking_for_a_path_creates_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.trial("digits", 1)
    workspace.hardware_log("digits", 1)
    assert list(tmp_path.iterdir()) == []
