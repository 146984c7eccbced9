import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mloptimizer.core.events import Decision, Emit, EpochRecord, ShouldStop
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import WORKER_LOG
from mloptimizer.engines.process.process_engine import ProcessEngine
from tests.engines.contract import PATIENCE_SECONDS, SLOTS, EngineContract, act, collect, results_of

MakePlan = Callable[..., TrialPlan]


@pytest.mark.slow
class TestForkServer(EngineContract):
    def make(self) -> ProcessEngine:
        return ProcessEngine(SLOTS, act, "forkserver")


@pytest.mark.slow
class TestSpawn(EngineContract):
    def make(self) -> ProcessEngine:
        return ProcessEngine(SLOTS, act, "spawn")


def die_unless_spawned(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Die in silence in a child of the fork server, as a process with a broken CUDA context does."""
    if os.getppid() != plan.params["driver"]:
        os._exit(1)
    return TrialResult(plan.number, Outcome.COMPLETED, 0.5, 0.1)


def shout(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Print, also from below Python, and be killed."""
    print("last words", flush=True)
    os.write(2, b"native words\n")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def give_up(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Say the plan's last words and abort, as C++ does when it gets no memory."""
    os.write(2, str(plan.params["words"]).encode())
    os.abort()


def pid_of_waiting(engine: ProcessEngine) -> int:
    """Return the process of the one running trial, from its first epoch."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for event in engine.wait(0.5):
            if isinstance(event, EpochRecord):
                return int(event.metrics["pid"])
    raise AssertionError("the trial never began")


def wait_until_gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(PATIENCE_SECONDS)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_worker_killed_from_outside_is_a_crash_that_names_the_signal(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, act)
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    os.kill(pid_of_waiting(engine), signal.SIGKILL)
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert "SIGKILL" in result.failure.message
    engine.close()


class Kernel:
    """Counts the processes that were killed because memory ran out."""

    def __init__(self) -> None:
        self.kills = 3

    def count(self) -> int:
        return self.kills


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_worker_that_the_system_killed_for_its_memory_is_out_of_memory(make_plan: MakePlan, method: str) -> None:
    kernel = Kernel()
    engine = ProcessEngine(SLOTS, act, method, count_oom_kills=kernel.count)
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    pid = pid_of_waiting(engine)
    kernel.kills += 1
    os.kill(pid, signal.SIGKILL)
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert result.failure.kind is FailureKind.OUT_OF_MEMORY
    engine.close()


def test_another_death_while_the_system_kills_is_a_crash(make_plan: MakePlan) -> None:
    kernel = Kernel()
    engine = ProcessEngine(SLOTS, act, count_oom_kills=kernel.count)
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    pid = pid_of_waiting(engine)
    kernel.kills += 1
    os.kill(pid, signal.SIGSEGV)
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert result.failure.kind is FailureKind.CRASH
    engine.close()


def test_the_engine_does_not_blame_the_fork_for_a_lack_of_memory(make_plan: MakePlan) -> None:
    counts = iter([0, 1])
    engine = ProcessEngine(SLOTS, shout, "auto", count_oom_kills=lambda: next(counts))
    engine.start(make_plan(), SLOTS[0])
    (event,) = collect(engine, 1)
    assert isinstance(event, TrialResult) and event.failure
    assert event.failure.kind is FailureKind.OUT_OF_MEMORY
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", FailureKind.OUT_OF_MEMORY),
        ("Failed to allocate 4096 bytes", FailureKind.OUT_OF_MEMORY),
        ("Check failed: rank == 2", FailureKind.CRASH),
    ],
)
def test_a_worker_that_aborts_has_its_reason_in_its_last_words(
    make_plan: MakePlan, words: str, kind: FailureKind
) -> None:
    engine = ProcessEngine(SLOTS, give_up, "forkserver")
    engine.start(make_plan(params={"words": words}), SLOTS[0])
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert (result.failure.kind, result.failure.traceback.startswith(words)) == (kind, True)
    engine.close()


@pytest.mark.slow
def test_what_a_dying_worker_printed_is_kept_with_the_failure(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, shout, "forkserver")
    plan = make_plan()
    engine.start(plan, SLOTS[0])
    (result,) = results_of(collect(engine, 1))
    assert result.failure is not None
    assert result.failure.traceback == "last words\nnative words\n"
    assert (Path(plan.directory) / WORKER_LOG).read_text() == result.failure.traceback
    engine.close()


@pytest.mark.slow
def test_the_engine_spawns_when_the_first_forked_worker_dies_in_silence(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, die_unless_spawned, "auto")
    for number in range(2):
        engine.start(make_plan(number, params={"driver": os.getpid()}), SLOTS[0])
        events = collect(engine, 1)
        assert results_of(events)[0].outcome is Outcome.COMPLETED
        assert [event.choice for event in events if isinstance(event, Decision)] == ["spawn"] * (number == 0)
    engine.close()


def test_a_stated_start_method_is_not_changed(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, die_unless_spawned, "forkserver")
    engine.start(make_plan(params={"driver": os.getpid()}), SLOTS[0])
    assert results_of(collect(engine, 1))[0].outcome is Outcome.FAILED
    engine.close()


@pytest.mark.slow
def test_a_killed_fork_server_is_replaced(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, act, "forkserver")
    engine.start(make_plan(0, params={"act": "wait"}), SLOTS[0])
    server = psutil.Process(pid_of_waiting(engine)).parent()
    assert server is not None
    server.kill()
    engine.start(make_plan(1), SLOTS[1])
    events = collect(engine, 1)
    assert [(result.number, result.outcome) for result in results_of(events)] == [(1, Outcome.COMPLETED)]
    engine.close()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux pins processes to cores")
def test_a_worker_keeps_to_its_cores_and_borrows_those_of_idle_slots(make_plan: MakePlan) -> None:
    first, *_, last = 2 * sorted(os.sched_getaffinity(0))
    slots = [Slot("one", cpu_ids=(first,)), Slot("two", cpu_ids=(last,))]
    engine = ProcessEngine(slots, act)
    engine.start(make_plan(0, params={"act": "wait"}), slots[0])
    worker = psutil.Process(pid_of_waiting(engine))
    assert set(worker.cpu_affinity()) == {first, last}
    engine.start(make_plan(1, params={"act": "wait"}), slots[1])
    assert worker.cpu_affinity() == [first]
    engine.stop_trial(1)
    collect(engine, 1)
    engine.wait(0.01)
    assert set(worker.cpu_affinity()) == {first, last}
    engine.close()


def test_close_kills_a_worker_that_does_not_listen(make_plan: MakePlan) -> None:
    engine = ProcessEngine(SLOTS, act)
    engine.start(make_plan(params={"act": "wait"}), SLOTS[0])
    pid = pid_of_waiting(engine)
    os.kill(pid, signal.SIGSTOP)
    engine.close()
    assert wait_until_gone(pid)
