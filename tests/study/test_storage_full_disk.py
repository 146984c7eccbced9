"""While the disk is full or the file is locked, an operation waits and is tried again; then the file is whole."""

import errno
import json
import logging
import os
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mloptimizer.core.errors import RunError
from mloptimizer.study import storage as storage_module
from mloptimizer.study.storage import open_storage, storage_errors
from tests.study.small_disk import fill, run_on_small_disk
from tests.study.storages import give_up, wait_and

needs_small_disk = pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own, as Linux does")


@needs_small_disk
@pytest.mark.parametrize("leave_bytes", [0, 4096])
def test_a_journal_on_a_full_disk_waits_and_is_whole_afterwards(tmp_path: Path, leave_bytes: int) -> None:
    def on_disk(disk: Path) -> None:
        journal, troubles, warned = disk / "studies.journal", list[str](), list[logging.LogRecord]()
        handler = logging.Handler()
        handler.emit = warned.append  # type: ignore[method-assign]
        logging.getLogger("mloptimizer").addHandler(handler)
        wait = wait_and((disk / "filler").unlink, troubles)
        study = optuna.create_study(storage=open_storage("", journal, wait=wait), study_name="s")
        trial = study.ask()
        trial.report(0.25, 1)
        fill(disk, leave_bytes)
        study.set_user_attr("long", "x" * 10_000)  # with 4096 bytes left, the write is torn
        trial.report(0.5, 2)
        study.tell(trial, 0.5)
        assert troubles == [f"{journal}: No space left on device"] * 2
        assert warned == [], "the trouble is told; what it tore is nobody's concern"
        lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
        assert sum("long" in line.get("user_attr", {}) for line in lines) == 1
        stored = optuna.load_study(study_name="s", storage=open_storage("", journal))
        assert stored.user_attrs == {"long": "x" * 10_000}
        assert [t.intermediate_values for t in stored.trials] == [{1: 0.25, 2: 0.5}]

    run_on_small_disk(tmp_path / "disk", 64, on_disk)


@needs_small_disk
def test_a_journal_is_opened_when_there_is_space(tmp_path: Path) -> None:
    def on_disk(disk: Path) -> None:
        troubles: list[str] = []
        journal = disk / "studies.journal"
        wait = wait_and((disk / "filler").unlink, troubles)
        storage = open_storage("", journal, wait=wait)
        fill(disk)
        optuna.create_study(storage=storage, study_name="s")
        assert len(troubles) == 2
        fill(disk)
        with journal.open("ab", buffering=0) as file:
            file.write(b'{"op_code":2,')
        assert len(open_storage("", journal).get_all_studies()) == 1  # mending needs no space

    run_on_small_disk(tmp_path / "disk", 64, on_disk)


@needs_small_disk
def test_without_a_wait_a_full_disk_is_an_error_and_giving_up_leaves_a_whole_journal(tmp_path: Path) -> None:
    def on_disk(disk: Path) -> None:
        journal = disk / "studies.journal"
        study = optuna.create_study(storage=open_storage("", journal), study_name="s")
        patient = optuna.load_study(study_name="s", storage=open_storage("", journal, wait=give_up))
        fill(disk, 4096)
        for one in (study, patient):
            with pytest.raises(RunError, match="No space left on device"), storage_errors("", journal):
                one.set_user_attr("long", "x" * 10_000)
        open_storage("", journal)
        assert [json.loads(line)["op_code"] for line in journal.read_bytes().splitlines()] == [0]

    run_on_small_disk(tmp_path / "disk", 64, on_disk)


def test_a_record_whose_writing_failed_at_its_very_end_is_written_once(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(_: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    troubles: list[str] = []
    storage = open_storage("", journal, wait=wait_and(lambda: None, troubles, after=1))
    monkeypatch.setattr(os, "fsync", fail_once)
    optuna.create_study(storage=storage, study_name="s")  # written twice, it would be a duplicate
    assert troubles == [f"{journal}: {os.strerror(errno.EDQUOT)}"]
    assert len(journal.read_bytes().splitlines()) == 1


@needs_small_disk
def test_sqlite_on_a_full_disk_waits_and_loses_nothing(tmp_path: Path) -> None:
    def on_disk(disk: Path) -> None:
        troubles: list[str] = []
        url = f"sqlite:///{disk}/s.db"
        wait = wait_and((disk / "filler").unlink, troubles)
        study = optuna.create_study(storage=open_storage(url, disk, wait=wait), study_name="s")
        trial = study.ask()
        fill(disk)
        for step in range(20):
            trial.report(step / 10, step)
            trial.set_user_attr(f"attribute {step}", "x" * 1000)
        study.tell(trial, 0.5)
        assert troubles == [f"{url}: database or disk is full"] * 2
        (stored,) = optuna.load_study(study_name="s", storage=open_storage(url, disk)).trials
        assert stored.state == TrialState.COMPLETE
        assert len(stored.intermediate_values) == len(stored.user_attrs) == 20
        fill(disk)
        impatient = optuna.load_study(study_name="s", storage=open_storage(url, disk))
        with pytest.raises(RunError, match="database or disk is full"), storage_errors(url, disk):
            impatient.set_user_attr("long", "x" * 100_000)

    run_on_small_disk(tmp_path / "disk", 1024, on_disk)


def test_a_locked_sqlite_file_is_waited_for_longer_than_sqlite_itself_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_LOCK_SECONDS", 0.05)
    url, troubles = f"sqlite:///{tmp_path}/s.db", list[str]()
    optuna.create_study(storage=open_storage(url, tmp_path), study_name="s")
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match="database is locked. Free some space, or end the program"):
        open_storage(url, tmp_path)
    storage = open_storage(url, tmp_path, wait=wait_and(lambda: other.execute("COMMIT"), troubles))
    assert troubles == [f"{url}: database is locked"] * 2
    study = optuna.load_study(study_name="s", storage=storage)
    other.execute("BEGIN IMMEDIATE")
    troubles.clear()
    study.ask()
    assert len(troubles) == 2
    assert len(study.trials) == 1
