from pathlib import Path

import optuna
import pytest

from mloptimizer.app.doctor import check_storage, examine_machine
from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check
from mloptimizer.reports.terminal.doctor_table import doctor_table
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage
from tests.reports.study_files import text_of


@pytest.mark.slow
def test_this_machine_is_sound_and_stays_as_it_is(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # GPUs need packages that the tests do without
    checks = examine_machine(workspace, Settings())
    wrong = {check.name for check in checks if check.ok is False}
    assert wrong <= {"workspace", "data cache", "memory"}  # a full disk is not what is tested
    assert list(workspace.root.iterdir()) == []
    names = [check.name for check in checks]
    assert names[:8] == ["Python", "packages", "environment", "TensorFlow", "GPUs", "NCCL", "precision", "XLA"]
    assert names[8:] == ["start method", "storage", "search spaces", "workspace", "data cache", "memory", "data sets"]


def test_a_storage_that_does_not_exist_yet_is_right_and_not_made(workspace: Workspace, tmp_path: Path) -> None:
    assert check_storage(workspace, Settings()).ok is True
    assert check_storage(workspace, Settings(storage=f"sqlite:///{tmp_path}/studies.db")).ok is True
    assert list(workspace.root.iterdir()) == []


def test_a_journal_is_opened_and_its_studies_are_counted(workspace: Workspace) -> None:
    for name in ("digits", "digits-hall-of-fame"):
        optuna.create_study(storage=open_storage("", workspace.journal), study_name=name)
    assert "1 study" in check_storage(workspace, Settings()).found


def test_a_damaged_journal_is_told_in_one_line(workspace: Workspace) -> None:
    workspace.journal.parent.mkdir()
    workspace.journal.write_text("something else\n")
    check = check_storage(workspace, Settings())
    assert check.ok is False
    assert str(workspace.journal) in check.found and "\n" not in check.found


def test_a_storage_that_cannot_be_reached_keeps_its_password_secret(workspace: Workspace) -> None:
    check = check_storage(workspace, Settings(storage="postgresql://ann:hush@127.0.0.1:1/studies"))
    assert check.ok is False
    assert "ann:***@127.0.0.1" in check.found
    assert "hush" not in check.found


def test_the_table_says_what_is_wrong_and_what_to_do() -> None:
    checks = [
        Check("Python", True, "3.11.7"),
        Check("GPUs", None, "none"),
        Check("XLA", False, "[/x] broken", "fix it"),
    ]
    lines = [" ".join(line.split()) for line in text_of(doctor_table(checks)).splitlines()]
    assert lines == [
        "ok Python 3.11.7",
        "note GPUs none",
        "wrong XLA [/x] broken",
        "→ fix it",
        "",
        "To fix: XLA.",
    ]


@pytest.mark.parametrize("width", [30, 60, 100])
def test_the_table_fits_the_terminal(width: int) -> None:
    table = doctor_table([Check("search spaces", False, "found " * 30, "advice " * 20)])
    assert max(map(len, text_of(table, width).splitlines())) <= width
