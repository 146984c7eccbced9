"""What is wrong with a storage is told in one line, without a password; SQLite keeps processes apart."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.secrets import hide_secrets
from mloptimizer.study.storage import open_storage
from tests.study.storages import create, open_error

POPPER = """
import sys
from pathlib import Path
import optuna
from mloptimizer.study.storage import open_storage
study = optuna.load_study(study_name="s", storage=open_storage(sys.argv[1], Path("unused")))
print("ready", flush=True)
sys.stdin.readline()
print(*[study.ask().number for _ in range(20)], flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_as_nobody(call: Callable[[], object]) -> int:
    """Return the exit code of a child that may write nothing of ours: 2 for a UsageError, 0 for none."""

    def child() -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            call()
        except UsageError as error:
            assert "Permission denied" in str(error) or "readonly" in str(error)
            os._exit(2)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode or 0


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder with a journal and a database that others may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create("", folder / "studies.journal")
        create(f"sqlite:///{folder}/s.db", folder).set_user_attr("a", 1)
        for path in [*folder.iterdir(), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        folder.chmod(0o755)


def test_files_that_may_not_be_written_are_told(read_only_folder: Path) -> None:
    assert run_as_nobody(lambda: open_storage("", read_only_folder / "studies.journal")) == 2
    assert run_as_nobody(lambda: open_storage("", read_only_folder / "new" / "studies.journal")) == 2
    assert run_as_nobody(lambda: open_storage(f"sqlite:///{read_only_folder}/s.db", Path("unused"))) == 2


def test_files_that_may_not_be_written_can_be_read(read_only_folder: Path) -> None:
    def read() -> None:
        assert open_storage("", read_only_folder / "studies.journal", read_only=True).get_all_studies()

    assert run_as_nobody(read) == 0


@pytest.mark.slow
def test_sqlite_gives_every_waiting_trial_to_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = create(url, tmp_path)
    for number in range(40):
        study.enqueue_trial({"x": number})
    with start(POPPER, url) as one, start(POPPER, url) as two:
        for process in (one, two):
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in (one, two):
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        asked = [process.communicate()[0] for process in (one, two)]
    numbers = [int(word) for text in asked for word in text.split()]
    assert sorted(numbers) == list(range(40))


def test_sqlite_writes_ahead_and_waits(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = create(url, tmp_path)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=study.set_user_attr, args=("a", 1))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    other.execute("COMMIT")
    thread.join()
    assert study.user_attrs == {"a": 1}


def test_sqlite_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create("sqlite:///here.db", tmp_path)
    assert (tmp_path / "here.db").is_file()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_sqlite_needs_a_file(url: str) -> None:
    assert "has no file name" in str(open_error(url))


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("This is a text, long enough to be looked at by SQLite.\n" * 50)
    assert "file is not a database" in str(open_error(f"sqlite:///{tmp_path}/a.db"))
    assert "unable to open database file" in str(open_error(f"sqlite:///{tmp_path}/none/a.db"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:secret@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:s@c/r?t@host/db", "postgresql://ann:***@host/db"),
        ("mysql://host/db?user=a&Password=secret&x=1", "mysql://host/db?user=a&Password=***&x=1"),
        ("postgresql://ann@host/db", "postgresql://ann@host/db"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("some/file.journal", "some/file.journal"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@127.0.0.1:1/db",
        "postgresql://ann:hunter2@127.0.0.1:no/db",
        "postgresql://ann:hun/ter2@127.0.0.1:1/db?password=hunter2",
        "postgresql+psycopg2://ann:hunter2@127.0.0.1:1/db",
        "mysql+nodriver://ann:{hunter2}@127.0.0.1/db",
        "mysql://ann:hunter2@127.0.0.1/db",
        "redis://:hunter2@127.0.0.1/0",
        "nonsense://ann:hunter2@127.0.0.1",
    ],
)
def test_no_error_holds_the_password(url: str) -> None:
    error = open_error(url)
    assert "ter2" not in str(error)
    assert "127.0.0.1" in str(error)
    assert error.__suppress_context__ or error.__context__ is None


def test_a_missing_postgresql_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    assert "pip install 'mloptimizer[postgresql]'" in str(open_error("postgresql://ann@127.0.0.1:1/db"))


def test_a_server_that_does_not_answer_is_a_failed_run() -> None:
    assert isinstance(open_error("postgresql://ann:x@127.0.0.1:1/db"), RunError)
