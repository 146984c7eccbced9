"""The journal survives kills and torn files, and another program's locks and files."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from mloptimizer.errors import MloptimizerError, RunError, UsageError
from mloptimizer.study.storage import FlockLock, open_storage, storage_errors
from tests.study.storages import create, open_error

WRITER = """
import sys
from pathlib import Path
import optuna
from mloptimizer.study.storage import open_storage
study = optuna.load_study(study_name="s", storage=open_storage("", Path(sys.argv[1])))
print("ready", flush=True)
while True:
    study.set_user_attr("long", "x" * 20_000)
"""


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


def test_a_torn_last_line_is_cut_off_before_the_next_writing(journal: Path) -> None:
    study = create("", journal)
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":2,"worker')
    study.set_user_attr("a", 1)
    assert journal.read_bytes().startswith(whole)
    assert [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert optuna.load_study(study_name="s", storage=open_storage("", journal)).user_attrs == {"a": 1}


def test_opening_heals_what_a_kill_left(journal: Path) -> None:
    create("", journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op')
    open_storage("", journal)
    assert journal.read_bytes() == whole


def test_reading_does_not_heal(journal: Path) -> None:
    create("", journal)
    torn = journal.read_bytes() + b'{"op'
    journal.write_bytes(torn)
    assert len(open_storage("", journal, read_only=True).get_all_studies()) == 1
    assert journal.read_bytes() == torn


def test_kills_during_writing_leave_whole_lines_and_no_wait_beside_a_default_lock(journal: Path) -> None:
    create("", journal)
    # The other writer takes Optuna's default lock, as optuna-dashboard does.
    other = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal))))
    written, done = [0], threading.Event()
    command = [sys.executable, "-c", WRITER, str(journal)]

    def write_on() -> None:
        while not done.is_set():
            written[0] += 1
            other.set_user_attr("other", written[0])

    thread = threading.Thread(target=write_on)
    thread.start()
    for round_ in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout and writer.stdout.readline() == "ready\n"
            time.sleep(0.01 + 0.03 * round_)  # the kill hits another moment each time
            writer.send_signal(signal.SIGKILL)
        started = time.monotonic()
        open_storage("", journal)
        assert time.monotonic() - started < 10  # a stale lock of Optuna would take 30 s
    done.set()
    thread.join()
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert sum("other" in line.get("user_attr", {}) for line in lines) == written[0]
    assert sum("long" in line.get("user_attr", {}) for line in lines) > 6


def test_cutting_waits_for_a_writer_with_the_default_lock(journal: Path) -> None:
    create("", journal)
    whole = journal.read_bytes()
    foreign = JournalFileSymlinkLock(str(journal))
    foreign.acquire()
    with journal.open("ab") as file:
        file.write(b'{"op_code":2,')  # the other writer is in the middle of its line
        file.flush()
        ours = FlockLock(journal)
        thread = threading.Thread(target=ours.acquire)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        file.write(b'"rest":1}\n')
    foreign.release()
    thread.join(20)
    ours.release()
    assert journal.read_bytes() == whole + b'{"op_code":2,"rest":1}\n'


def test_the_lock_file_is_not_the_one_of_optunas_locks(journal: Path) -> None:
    create("", journal)
    assert sorted(path.name for path in journal.parent.iterdir()) == ["studies.journal", "studies.journal.flock"]


def test_a_damaged_line_is_named(journal: Path) -> None:
    create("", journal)
    journal.write_bytes(b'{"op_code":0,"wor\n' + journal.read_bytes())
    assert f"{journal}, line 1: is damaged." in str(open_error("", journal))


def test_valid_lines_that_are_not_optunas_are_told(journal: Path) -> None:
    create("", journal)
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4}\n{"op_code":4}\n')
    assert "lines that are not Optuna's" in str(open_error("", journal))


@pytest.mark.parametrize("text", ["my notes, without an end of line", "[1]\n", "\x00\x01"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    assert "is not a journal of Optuna" in str(open_error(str(path)))
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
    with pytest.raises(RunError, match="the study was deleted meanwhile"), storage_errors("", journal):
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
