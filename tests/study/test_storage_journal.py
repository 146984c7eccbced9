"""The journal survives kills and torn records, beside another program that writes with Optuna's own lock."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from mloptimizer.study.journal_lock import JournalLock
from mloptimizer.study.storage import open_storage
from tests.study.storages import create

TORN = b'{"op_code":2,"worker_id":"a","user_attr":{"long":"xxxx'
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


def open_as_a_dashboard(journal: Path) -> optuna.Study:
    """Return the study as optuna-dashboard opens it: with Optuna's default lock."""
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal))))


def test_a_record_behind_an_unfinished_one_is_kept_and_its_writer_reads_on(journal: Path) -> None:
    study = create("", journal)
    other = open_as_a_dashboard(journal)
    study.set_user_attr("ours", {"op_code": 1})  # not the start of a record
    with journal.open("ab") as file:
        file.write(TORN)
    other.set_user_attr("other", {"op_code": 2})
    joined = journal.read_bytes()
    assert TORN + b'{"op_code":2,' in joined
    for opened in (optuna.load_study(study_name="s", storage=open_storage("", journal)), study, other):
        assert opened.user_attrs == {"ours": {"op_code": 1}, "other": {"op_code": 2}}
    assert journal.read_bytes() == joined.replace(TORN + b"{", b" " * len(TORN) + b"{")
    other.set_user_attr("other", 3)
    study.set_user_attr("ours", 4)
    assert other.user_attrs == study.user_attrs == {"ours": 4, "other": 3}


@pytest.mark.parametrize("torn", [b"{", b'{"op_code":0,"worker_id":"a-1","study_name', b'{"op_code":4}'])
def test_a_journal_may_begin_with_an_unfinished_record(journal: Path, torn: bytes) -> None:
    create("", journal)
    journal.write_bytes(torn + journal.read_bytes())
    for _ in range(2):
        assert [s.study_name for s in open_storage("", journal).get_all_studies()] == ["s"]


def test_only_an_unfinished_record_that_keeps_from_reading_is_mended_when_reading(journal: Path) -> None:
    create("", journal)
    reader = open_storage("", journal, read_only=True)
    lines = journal.read_bytes()
    journal.write_bytes(lines + TORN + b'{"op_code":2,"worker_id":"a","study_id":0,"user_attr":{"b":1}}\n' + lines)
    healed = journal.read_bytes().replace(TORN, b" " * len(TORN))
    assert reader.get_all_studies()[0].user_attrs == {"b": 1}
    assert journal.read_bytes() == healed


@pytest.mark.slow
def test_kills_during_writing_lose_nothing_and_make_nobody_wait_beside_a_default_lock(journal: Path) -> None:
    create("", journal)
    other = open_as_a_dashboard(journal)
    sent, done = [0], threading.Event()
    acknowledged: list[int] = []
    command = [sys.executable, "-c", WRITER, str(journal)]

    def write_on() -> None:
        while not done.is_set():
            sent[0] += 1
            with contextlib.suppress(ValueError):  # a dashboard answers this request with an error and goes on
                other.set_user_attr("other", sent[0])
                acknowledged.append(sent[0])

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
    other.set_user_attr("other", sent[0] + 1)  # after the last healing nothing is wrong any more
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    written = [line["user_attr"]["other"] for line in lines if "other" in line.get("user_attr", {})]
    assert written == sorted(set(written))
    assert {*acknowledged, sent[0] + 1} <= set(written)
    assert sum("long" in line.get("user_attr", {}) for line in lines) > 6


def test_cutting_waits_for_a_writer_with_the_default_lock(journal: Path) -> None:
    create("", journal)
    whole = journal.read_bytes()
    foreign = JournalFileSymlinkLock(str(journal))
    foreign.acquire()
    with journal.open("ab") as file:
        file.write(b'{"op_code":2,')  # the other writer is in the middle of its line
        file.flush()
        ours = JournalLock(journal)
        thread = threading.Thread(target=ours.acquire)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        file.write(b'"rest":1}\n')
    foreign.release()
    thread.join(20)
    ours.release()
    assert journal.read_bytes() == whole + b'{"op_code":2,"rest":1}\n'


def test_the_lock_that_a_killed_dashboard_left_is_removed(journal: Path) -> None:
    create("", journal)
    lock = journal.with_name(journal.name + ".lock")
    lock.symlink_to(journal)
    open_storage("", journal)
    assert lock.is_symlink()  # it may be of a living one
    os.utime(lock, (0, time.time() - 31), follow_symlinks=False)
    open_storage("", journal)
    assert not lock.is_symlink()


def test_an_old_lock_does_not_hold_up_the_cutting(journal: Path) -> None:
    study = create("", journal)
    lock = journal.with_name(journal.name + ".lock")
    lock.symlink_to(journal)
    os.utime(lock, (0, time.time() - 31), follow_symlinks=False)
    with journal.open("ab") as file:
        file.write(TORN)
    started = time.monotonic()
    study.set_user_attr("a", 1)
    assert time.monotonic() - started < 10
    assert TORN not in journal.read_bytes()
