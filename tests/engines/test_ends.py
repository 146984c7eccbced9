"""What ends when: workers, what they started, and the fork server; with real processes that are really killed."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from mloptimizer.core.events import Emit, EpochRecord, ShouldStop
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.engines.process.lifeline import DRIVER, end_with_writer, lead_group
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.engines.process.process_trees import ProcessTree
from tests.engines.contract import PATIENCE_SECONDS, SLOTS, act, collect, results_of
from tests.engines.test_process_engine import pid_of_waiting

pytestmark = pytest.mark.slow
MakePlan = Callable[..., TrialPlan]
ROOT = Path(__file__).parents[2]
ORPHAN_SECONDS = 5.0  # within which nothing of a killed driver may be left

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only the kernel of Linux ends what runs no Python code")


def hang(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Start children, report every process number, and hang as the plan says."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    shell = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & echo started; wait"], stdout=subprocess.PIPE)
    assert shell.stdout is not None and shell.stdout.readline() == b"started\n"  # whoever counts finds all of them
    pids = {"worker": os.getpid(), "child": shell.pid}
    if plan.params.get("session"):
        pids["other session"] = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    emit(EpochRecord(plan.number, 1, {name: float(pid) for name, pid in pids.items()}, 0.1))
    if plan.params["how"] == "gil":
        ctypes.PyDLL(None).sleep(1000)
    elif plan.params["how"] == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while not should_stop():
        time.sleep(0.01)
    return TrialResult(plan.number, Outcome.COMPLETED, 0.5, 0.1)


def processes_of(engine: ProcessEngine) -> list[psutil.Process]:
    """Return the processes of the next trial that has reported them, and all that they started."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for event in engine.wait(0.5):
            if isinstance(event, EpochRecord):
                told = [psutil.Process(int(pid)) for pid in event.metrics.values()]
                return list({*told, *(child for process in told for child in process.children(recursive=True))})
    raise AssertionError("the trial never began")


def living(processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; whether somebody asked for their exit code does not matter."""
    alive = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def left_after(processes: Collection[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return those that have not ended after so long."""
    deadline = time.monotonic() + seconds
    while (left := living(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize("how", ["asleep", "gil", "stopped"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_killed_trial_ends_with_all_that_it_started(make_plan: MakePlan, method: str, how: str) -> None:
    engine = ProcessEngine(SLOTS, hang, method)
    engine.start(make_plan(params={"how": how, "session": True}), SLOTS[0])
    processes = processes_of(engine)
    engine.kill_trial(0)
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert result.failure.kind is FailureKind.CRASH
    assert left_after(processes, 1.0) == []
    assert list(engine.idle_slots()) == list(SLOTS)
    engine.close()


def test_close_ends_all_that_the_workers_started(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, hang)
    engine.start(make_plan(params={"how": "stopped", "session": True}), SLOTS[0])
    processes = processes_of(engine)
    engine.close()
    assert living(processes) == []


def test_what_a_trial_left_behind_ends_with_it(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, hang)
    engine.start(make_plan(params={"how": "asleep"}), SLOTS[0])
    processes = processes_of(engine)
    engine.stop_trial(0)
    assert results_of(collect(engine, 1))[0].outcome is Outcome.COMPLETED
    assert left_after(processes, 1.0) == []
    engine.close()


def test_a_killed_trial_does_not_make_the_engine_spawn(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, act, "auto")
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    engine.kill_trial(0)
    assert [type(event) for event in collect(engine, 1) if not isinstance(event, EpochRecord)] == [TrialResult]
    engine.close()


def test_a_trial_killed_while_the_system_kills_for_memory_is_a_crash(make_plan: MakePlan) -> None:
    kills = iter(range(100))
    engine = ProcessEngine(SLOTS, act, count_oom_kills=lambda: next(kills))
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    engine.kill_trial(0)
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert result.failure.kind is FailureKind.CRASH
    engine.close()


def fork_and_die(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Die, but leave a fork of this process that holds its pipe to the driver open."""
    if os.fork():
        os._exit(3)
    time.sleep(1000)
    raise AssertionError("unreachable")


def test_a_dead_worker_is_noticed_although_its_pipe_is_still_open(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, fork_and_die, "forkserver")
    engine.start(make_plan(), SLOTS[0])
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert "exit code 3" in result.failure.message
    engine.close()


def test_running_trials_continue_when_the_fork_server_is_killed(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, act, "forkserver")
    workers = []
    for number, slot in enumerate(SLOTS):
        engine.start(make_plan(number, params={"act": "wait"}), slot)
        workers.append(psutil.Process(pid_of_waiting(engine)))
    server = workers[0].parent()
    assert server is not None
    server.kill()
    assert left_after([server], PATIENCE_SECONDS) == []
    assert engine.wait(0.05) == []
    assert len(living(workers)) == 2
    engine.stop_trial(0)
    (first,) = results_of(collect(engine, 1))
    assert (first.number, first.outcome) == (0, Outcome.PRUNED)
    engine.start(make_plan(2), SLOTS[0])
    assert [result.number for result in results_of(collect(engine, 1))] == [2]
    engine.kill_trial(1)
    (last,) = results_of(collect(engine, 1))
    assert last.failure is not None
    assert (last.number, last.failure.kind) == (1, FailureKind.LOST_WORKER)
    assert "its exit code is unknown" in last.failure.message
    assert living(workers) == []
    engine.close()


DRIVER_OF_TWO = """
import sys, time
from mloptimizer.engines.process.process_engine import ProcessEngine
from tests.engines.contract import SLOTS, bare_plan
from tests.engines.test_ends import hang, processes_of

if __name__ == "__main__":
    engine = ProcessEngine(SLOTS, hang, sys.argv[1])
    for number, how in enumerate(["asleep", "gil"]):
        engine.start(bare_plan(number, {"how": how}, sys.argv[2]), SLOTS[number])
        processes_of(engine)
    print("ready", flush=True)
    time.sleep(1000)
"""
DRIVER_AT_IMPORT = """
import sys, time
from mloptimizer.engines.process.fork_server import start_fork_server

if __name__ == "__main__":
    start_fork_server(["slow"])
    time.sleep(1000)
"""
SLOW_IMPORT = """
import ctypes, pathlib
pathlib.Path(__file__).with_name("importing").touch()
ctypes.PyDLL(None).sleep(1000)
"""


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns a driver that runs the given script; whatever a failed test leaves of it is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        path = tmp_path / "driver.py"
        path.write_text(script)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        command = [sys.executable, str(path), *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for driver in started:
        driver.kill()
        driver.wait()
        if driver.stdout:
            driver.stdout.close()


def kill_driver(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Kill the driver; return its descendants of before."""
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    return processes


@on_linux
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_no_process_survives_a_killed_driver(
    tmp_path: Path, method: str, start_driver: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start_driver(DRIVER_OF_TWO, method, str(tmp_path))
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    processes = kill_driver(driver)
    # Two workers with a shell and two sleepers each, the resource tracker, and perhaps the fork server.
    assert len(processes) == 2 * 4 + 1 + (method == "forkserver")
    left = left_after(processes, ORPHAN_SECONDS)
    for process in left:
        process.kill()
    assert left == []


@on_linux
def test_a_fork_server_that_is_still_importing_ends_with_a_killed_driver(
    tmp_path: Path, start_driver: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_IMPORT)
    driver = start_driver(DRIVER_AT_IMPORT)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "importing").exists():
        assert time.monotonic() < deadline, "the fork server never began its imports"
        time.sleep(0.02)
    processes = kill_driver(driver)
    assert len(processes) == 2  # the server and the resource tracker
    left = left_after(processes, ORPHAN_SECONDS)
    for process in left:
        process.kill()
    assert left == []


@on_linux
def test_a_fork_server_whose_driver_is_gone_already_ends_before_its_imports() -> None:
    code = "import mloptimizer.engines.process.fork_preload, os; print('went on', os.environ.get('MLOPTIMIZER_DRIVER'))"
    for parent, said in ((os.getpid(), "went on None\n"), (os.getppid(), "")):
        environment = {**os.environ, DRIVER: str(parent), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode) == (said, 0 if said else 1)


def live_on(lifeline: Connection) -> None:
    """Hold on to the pipe, and sleep."""
    lead_group()
    end_with_writer(lifeline)
    time.sleep(1000)


def test_a_worker_whose_driver_is_gone_before_it_begins_ends_at_once() -> None:
    spawn = multiprocessing.get_context("spawn")
    theirs, ours = spawn.Pipe(duplex=False)
    process = spawn.Process(target=live_on, args=(theirs,))
    process.start()
    ours.close()
    theirs.close()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode in (-signal.SIGKILL, 1)


def test_a_process_that_ends_its_group_ends_children_of_other_sessions_too() -> None:
    code = (
        "import subprocess; from mloptimizer.engines.process.lifeline import end_group, lead_group; lead_group();"
        "print(*(subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL, start_new_session=own).pid"
        " for own in (False, True)), flush=True); input(); end_group()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        children = [psutil.Process(int(word)) for word in process.stdout.readline().split()]
        process.communicate("\n")
    assert process.returncode == -signal.SIGKILL
    assert left_after(children, 1.0) == []


def test_a_stranger_that_got_the_number_of_an_ended_worker_is_spared() -> None:
    ended, stranger = (subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2))
    tree = ProcessTree(ended.pid)
    ended.kill()
    ended.wait()
    tree._pid = stranger.pid  # numbers come back only after tens of thousands of processes
    tree.kill()
    assert tree.wait(0.0)
    assert stranger.poll() is None
    stranger.kill()
    assert stranger.wait() == -signal.SIGKILL


def test_the_socket_of_a_killed_driver_is_removed_by_the_next_one() -> None:
    folder = Path(tempfile.mkdtemp())  # a short name, as that of a socket has to be
    environment = {**os.environ, "TMPDIR": str(folder)}
    script = (
        "from mloptimizer.engines.process.fork_server import start_fork_server; "
        "start_fork_server([]); print(1, flush=True);"
    )
    command = [sys.executable, "-c", script + "import sys; sys.stdin.read()"]

    def start() -> "subprocess.Popen[bytes]":
        driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert driver.stdout and driver.stdout.readline() == b"1\n"
        return driver

    with start() as killed, start() as alive:
        killed.kill()
        killed.wait()
        assert len(list(folder.glob("*/*"))) == 2
        with start() as third:
            assert len(list(folder.glob("*/*"))) == 2  # of those that live
            third.communicate(timeout=60)
        alive.communicate(timeout=60)
    assert list(folder.glob("*/*")) == []
    shutil.rmtree(folder)
