"""What may be named as a storage file, and what is told about one that cannot be used."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.study.storage import open_storage, storage_errors
from tests.study.storages import create, open_error


def test_the_workspace_journal_is_created_with_its_folder(journal: Path) -> None:
    create("", journal)
    assert journal.is_file()
    assert [s.study_name for s in open_storage("", journal).get_all_studies()] == ["s"]


def test_reading_creates_nothing(journal: Path, tmp_path: Path) -> None:
    assert open_storage("", journal, read_only=True).get_all_studies() == []
    assert open_storage(f"sqlite:///{tmp_path}/s.db", journal, read_only=True).get_all_studies() == []
    assert list(tmp_path.iterdir()) == []


def test_a_plain_path_is_a_journal(tmp_path: Path) -> None:
    create(str(tmp_path / "own.log"), Path("unused"))
    assert (tmp_path / "own.log").read_bytes().startswith(b'{"op_code":')


def test_the_lock_file_is_not_the_one_of_optunas_locks(journal: Path) -> None:
    create("", journal)
    assert sorted(path.name for path in journal.parent.iterdir()) == ["studies.journal", "studies.journal.flock"]


def test_a_damaged_line_is_named(journal: Path) -> None:
    create("", journal)
    journal.write_bytes(b'{"op_code":0,"wor\n' + journal.read_bytes())
    journal.with_name("studies.journal.flock").unlink()
    assert f"{journal}, line 1: is damaged." in str(open_error("", journal, read_only=True))
    assert list(journal.parent.iterdir()) == [journal]
    assert f"{journal}, line 1: is damaged." in str(open_error("", journal))


def test_valid_lines_that_optuna_did_not_write_are_reported(journal: Path) -> None:
    create("", journal)
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4}\n{"op_code":4}\n')
    assert "lines that Optuna did not write" in str(open_error("", journal))


@pytest.mark.parametrize("text", ["my notes, without an end of line", "[1]\n", "\x00\x01"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    assert "is not an Optuna journal" in str(open_error(str(path)))
    assert path.read_text() == text


def test_a_sqlite_file_without_its_scheme_gets_a_hint(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "a.db").execute("create table t (x)")
    assert f"Write sqlite:///{tmp_path}/a.db" in str(open_error(str(tmp_path / "a.db")))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert isinstance(open_error("", tmp_path / "file" / "studies.journal"), MloptimizerError)
    assert isinstance(open_error(str(tmp_path)), UsageError)


def test_a_deleted_study_is_told(journal: Path) -> None:
    study = create("", journal)
    optuna.delete_study(study_name="s", storage=open_storage("", journal))
    with pytest.raises(RunError, match="deleted the study"), storage_errors("", journal):
        study.set_user_attr("a", 1)


def test_errors_of_the_program_itself_are_not_hidden(journal: Path) -> None:
    with pytest.raises(KeyError, match="mine"), storage_errors("", journal):
        raise KeyError("mine")


def test_the_journal_needs_no_sqlalchemy_and_nothing_is_printed(journal: Path) -> None:
    script = "import sys; from pathlib import Path; from mloptimizer.study.storage import open_storage; import optuna;"
    script += "optuna.create_study(storage=open_storage('', Path(sys.argv[1]))).ask();"
    script += "assert 'sqlalchemy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script, str(journal)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
