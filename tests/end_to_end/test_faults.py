"""Whole searches from the shell that meet a fault: a full disk, a server that is away, a trial that hangs, a deadline,
a kill."""

import csv
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import psutil
import pytest

from mloptimizer.study.storage import open_storage
from tests.shell import PATIENCE_SECONDS, results, start, trials_of, wait_for
from tests.study.small_disk import fill, run_on_small_disk

if TYPE_CHECKING:
    from tests.postgresql import Server

needs_small_disk = pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own, as Linux does")

DENSE = '''"""Networks of one layer, some of which never come to an end of their building, or are slow."""

import ctypes
import os
import subprocess
import time


def sample(trial, dataset):
    fault = trial.suggest_categorical("fault", ["none", "sleep", "gil"]) if "FAULTS" in os.environ else "none"
    width = trial.suggest_int("width", 256, 512)
    return {"width": width, "fault": fault, "optimizer": "sgd", "learning_rate": 0.01}


def build(params, dataset):
    import keras

    if params["fault"] != "none":
        with open(os.environ["FAULTS"], "a") as file:
            print(subprocess.Popen(["sleep", "600"]).pid, os.getpid(), file=file)
        ctypes.PyDLL(None).sleep(600) if params["fault"] == "gil" else time.sleep(600)
    images = keras.Input(dataset.input_shape)
    x = keras.layers.Dense(params["width"], "relu")(keras.layers.Flatten()(images))
    x = keras.layers.Dropout(0.2)(x)
    if "SLOW" in os.environ:
        x = slow_layer()(x)
    return keras.Model(images, keras.layers.Dense(dataset.classes)(x))


def slow_layer():
    import keras
    import tensorflow as tf

    class Slow(keras.layers.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.py_function(lambda: time.sleep(0.05), [], [])]):
                return tf.identity(x)

    return Slow()
'''
SMALL = ["--set", "train_limit=400", "--set", "pruner=none", "--set", "exploration_patience=400", "--explore-only"]
EPOCHS = 30
WAITS, GOES_ON = "The search waits", "The search continues"  # the words that tests/search/test_control.py checks


class Search:
    """A search of the study s that runs in a process of its own; what it prints is kept outside of its workspace."""

    def __init__(self, workspace: Path, printed: Path, *words: str, **environment: str) -> None:
        self.workspace, self.printed = workspace, printed
        self.study = workspace / "metrics_data/s"
        with printed.open("w") as output:
            self.process = start(*words, cwd=workspace, output=output, **environment)

    def text(self) -> str:
        return " ".join(self.printed.read_text().split())

    def epochs(self, trial: int = 0) -> list[dict[str, Any]]:
        return lines_of(self.study / f"trial_{trial:05d}/epochs.jsonl")

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_for(lambda: self.text().count(words) >= times or self.process.poll() is not None)
        assert self.text().count(words) >= times, self.text()

    def wait_for_epoch(self, epoch: int = 1, trial: int = 0) -> None:
        wait_for(lambda: len(self.epochs(trial)) >= epoch or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()

    def wait_for_trials_to_end(self) -> None:
        wait_for(lambda: not any(is_alive(trial) for trial in trials_of(self.process.pid)))

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


def begin(workspace: Path, printed: Path, *words: str, **environment: str) -> Search:
    """Start a new search; its space is written into the workspace."""
    space = workspace / "search_spaces/dense.py"
    space.parent.mkdir(parents=True)
    space.write_text(DENSE)
    new = ["search", "--dataset", "digits", "--study", "s", "--space", "dense", *SMALL]
    return Search(workspace, printed, *new, "--set", f"exploration_epochs={EPOCHS}", *words, **environment)


def go_on(earlier: Search, *words: str, **environment: str) -> Search:
    """Continue the search; the new one prints into a file of its own."""
    printed = earlier.printed.with_name(f"{earlier.printed.name}+")
    return Search(earlier.workspace, printed, "resume", "s", "--explore-only", *words, **environment)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of JSON; every one is whole."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_files(workspace: Path) -> None:
    """Check that no file of the workspace is half-written or left over; to be asked while no trial runs."""
    for path in (path for path in workspace.rglob("*") if path.is_file()):
        if path.suffix in (".jsonl", ".journal"):
            assert path.read_bytes()[-1:] in (b"", b"\n")
            lines_of(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert path.read_bytes()[-1:] in (b"", b"\n")
            assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) <= 1
        assert not path.name.startswith(".")


def check_records(search: Search, url: str = "", trials: int = 2) -> None:
    """Check that every trial has completed once, with each epoch once, in the files and in the storage."""
    journal = search.workspace / "metrics_data/studies.journal"
    study = optuna.load_study(study_name="s", storage=open_storage(url, journal))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * trials
    assert [result["outcome"] for result in results(search.study)] == ["completed"] * trials
    for trial in study.trials:
        epochs = search.epochs(trial.number)
        assert [line["epoch"] for line in epochs] == list(range(1, EPOCHS + 1))
        stored = trial.intermediate_values
        assert stored == {line["epoch"]: pytest.approx(line["val_accuracy"], abs=1e-6) for line in epochs}


@needs_small_disk
def test_on_a_full_disk_a_search_waits_and_then_goes_on(tmp_path: Path) -> None:
    def on_disk(disk: Path) -> None:
        search = begin(disk, tmp_path / "full", "--trials", "2", "--workers", "1", "--set", "min_free_disk_mb=0")
        search.wait_for_epoch()
        filler = fill(disk)
        search.wait_for(f"No space left on device. {WAITS}")
        search.wait_for_trials_to_end()  # its checkpoints and its weights found no room
        check_files(disk)
        filler.unlink()
        search.wait_for(GOES_ON)
        search.wait_for("trial 0: disk_full: model.weights.h5: ")
        search.wait_for_epoch(trial=1)
        fill(disk)
        search.wait_for(WAITS, times=2)
        search.process.send_signal(signal.SIGINT)
        assert search.end() == 130
        assert search.text().count(WAITS) == 2
        check_files(disk)
        again = go_on(search, "--set", "min_free_disk_mb=20")
        again.wait_for(WAITS)
        filler.unlink()
        fill(disk, leave_bytes=15 << 20)
        again.wait_for("(min_free_disk_mb = 20)")
        filler.unlink()
        assert again.end() == 0, again.text()
        assert again.text().count(GOES_ON) >= 2, again.text()  # after the full disk, and after the low one
        check_files(disk)
        check_records(again)
        assert "checkpoint: skipped" in (disk / "debug_strategy.log").read_text()

    run_on_small_disk(tmp_path / "disk", 24 << 10, on_disk)


def test_trials_outlast_their_fork_server_and_a_restart_of_the_database(tmp_path: Path, postgresql: "Server") -> None:
    url = postgresql.create_database("geheim-5x7")
    search = begin(tmp_path, tmp_path.with_suffix(".out"), "--trials", "2", "--workers", "2", "--storage", url)
    search.wait_for_epoch(trial=0)
    search.wait_for_epoch(trial=1)
    trials_of(search.process.pid)[0].parent().kill()
    postgresql.stop("immediate")
    search.wait_for(WAITS)
    postgresql.start()
    assert search.end() == 0, search.text()
    assert ":***@127.0.0.1" in search.text()
    assert GOES_ON in search.text()
    check_files(tmp_path)
    check_records(search, url)
    for path in (search.printed, *(path for path in tmp_path.rglob("*") if path.is_file())):
        assert b"geheim-5x7" not in path.read_bytes()


def test_a_trial_that_hangs_is_killed_with_all_that_it_started_and_tried_once_more(tmp_path: Path) -> None:
    faults = [{"space": "dense", "fault": fault, "width": 256} for fault in ("sleep", "gil", "none")]
    (tmp_path / "first.json").write_text(json.dumps(faults))
    times = ["--set", "hang_minutes=0.05", "--set", "compile_minutes=0.05"]
    words = ["--trials", "3", "--workers", "2", "--enqueue", "first.json", *times]
    search = begin(tmp_path, tmp_path.with_suffix(".out"), *words, FAULTS=str(tmp_path / "pids"))
    assert search.end() == 0, search.text()
    ends = {result["number"]: (result["outcome"], result["failure"], result["attempts"]) for result in read(search)}
    assert ends.pop(2) == ("completed", None, 1)
    for outcome, failure, attempts in ends.values():
        assert (outcome, failure["kind"], attempts) == ("failed", "hung", 2)
        assert "0.1 minutes (hang_minutes + compile_minutes" in failure["message"]
    pids = [int(pid) for line in (tmp_path / "pids").read_text().splitlines() for pid in line.split()]
    assert len(pids) == 2 * 2 * 2  # a child and a worker of two attempts of two trials
    assert [pid for pid in pids if psutil.pid_exists(pid) and is_alive(psutil.Process(pid))] == []


def read(search: Search) -> list[dict[str, Any]]:
    return [dict(result) for result in results(search.study)]


@dataclass(frozen=True)
class CutOff:
    """A search whose only trial was killed, then its driver, and that then met its deadline; and one left alone."""

    unbroken: Search
    killed: Search
    stopped: Search
    finished: Search
    stopped_seconds: float
    left_behind: list[Path]  # in the folder for what is temporary
    survivors: list[psutil.Process]
    waited: dict[str, Any]  # what there was of the trial when the deadline had passed


DEADLINE_SECONDS = 8


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CutOff]:
    with tempfile.TemporaryDirectory() as temporary:  # a short name, as sockets need
        yield cut_off_and_finish(tmp_path_factory.mktemp("cut_off"), Path(temporary))


def cut_off_and_finish(folder: Path, temporary: Path) -> CutOff:
    words = ["--trials", "1", "--workers", "1", "--seed", "5"]
    place = {"TMPDIR": str(temporary)}
    unbroken = begin(folder / "unbroken", folder / "printed_unbroken", *words, **place)
    killed = begin(folder / "killed", folder / "printed", *words, SLOW="1", **place)
    killed.wait_for_epoch(2)
    trials_of(killed.process.pid)[0].kill()
    killed.wait_for("trial 0: crash: ")
    done = len(killed.epochs())
    killed.wait_for_epoch(done + 2)
    processes = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    killed.end()
    psutil.wait_procs(processes, timeout=30)
    begun = time.monotonic()
    stopped = go_on(killed, "--max-hours", str(DEADLINE_SECONDS / 3600), SLOW="1", **place)
    wait_for(lambda: bool(trials_of(stopped.process.pid)))
    processes += psutil.Process(stopped.process.pid).children(recursive=True)
    assert stopped.end() == 0, stopped.text()
    seconds = time.monotonic() - begun
    trial = stopped.study / "trial_00000"
    waited = {
        "epochs": len(stopped.epochs()),
        "checkpoints": [path.name for path in sorted(trial.glob("checkpoints/*"))],
        "results": read(stopped),
    }
    _, survivors = psutil.wait_procs(processes, timeout=30)
    finished = go_on(stopped, **place)
    assert (finished.end(), unbroken.end()) == (0, 0), finished.text() + unbroken.text()
    return CutOff(unbroken, killed, stopped, finished, seconds, list(temporary.rglob("*")), survivors, waited)


def test_a_training_that_was_killed_and_stopped_gives_what_an_unbroken_one_gives(cut_off: CutOff) -> None:
    one, other = cut_off.unbroken.epochs(), cut_off.finished.epochs()
    assert [line["epoch"] for line in other] == [line["epoch"] for line in one] == list(range(1, EPOCHS + 1))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "gradient_norm"):
        assert [line[name] for line in other] == pytest.approx([line[name] for line in one], abs=1e-6)
    check_files(cut_off.finished.workspace)
    check_records(cut_off.finished, trials=1)
    kinds = [line["kind"] for line in lines_of(cut_off.finished.study / "trial_00000/attempts.jsonl")]
    assert kinds == ["crash", "interrupted", "suspended"]


def test_a_deadline_ends_the_run_in_order_and_says_how_to_go_on(cut_off: CutOff) -> None:
    assert cut_off.stopped_seconds < DEADLINE_SECONDS + 30
    assert f"max_hours = {DEADLINE_SECONDS / 3600:g}" in cut_off.stopped.text()
    assert "mloptimizer resume s --explore-only" in cut_off.stopped.text()
    assert cut_off.survivors == []
    waited = cut_off.waited
    assert (waited["results"], len(waited["checkpoints"])) == ([], 2)
    log = (cut_off.finished.workspace / "debug_strategy.log").read_text()
    (epoch,) = re.findall(r"checkpoint: \D*epoch (\d+) ", log)[-1:]
    assert waited["epochs"] - 1 <= int(epoch) <= waited["epochs"]


def test_nothing_is_left_in_places_for_what_is_temporary(cut_off: CutOff) -> None:
    assert [path.name for path in cut_off.left_behind] == [f"mloptimizer-{os.getuid()}"]


def test_a_study_that_takes_too_much_space_stops_with_its_reason(cut_off: CutOff) -> None:
    search = go_on(cut_off.finished, "--trials", "+1", "--max-disk", "0.01")
    assert search.end() == 0, search.text()
    assert "max_disk_mb = 0.01" in search.text()
    assert len(results(search.study)) == 1
