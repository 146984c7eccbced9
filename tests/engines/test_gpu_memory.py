"""A slot is used again only when its GPUs' memory is free; the tests set what NVML reports."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from mloptimizer.core.events import Decision, EpochRecord
from mloptimizer.core.nouns import Slot, TrialPlan
from mloptimizer.engines.gpu_memory import GpuMemory
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.hardware.read.nvml import GpuUse
from tests.engines.contract import act, collect

MakePlan = Callable[..., TrialPlan]
SLOTS = (Slot("gpu", gpu_ids=("GPU-a",)), Slot("other", gpu_ids=("GPU-b",)))


class Gpus:
    """The GPUs: their memory is held until a test says that it is free."""

    def __init__(self) -> None:
        self.pids: frozenset[int] = frozenset()
        self.used_mb = 500.0
        self.readings = 0
        self.free_after: int | None = None  # readings

    def read(self, uuids: Sequence[str]) -> GpuUse | None:
        self.readings += 1
        if uuids == ("GPU-b",):
            return GpuUse(frozenset(), 0.0)
        if self.free_after is not None and self.readings > self.free_after:
            return GpuUse(frozenset(), 500.0)
        return GpuUse(self.pids, self.used_mb)


@pytest.fixture
def gpus() -> Gpus:
    return Gpus()


@pytest.fixture
def make_engine(gpus: Gpus) -> Iterator[Callable[[float], ProcessEngine]]:
    engines: list[ProcessEngine] = []

    def make(patience_seconds: float = 60.0) -> ProcessEngine:
        engines.append(ProcessEngine(SLOTS, act, gpu_memory=GpuMemory(gpus.read, patience_seconds)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def run_trial(engine: ProcessEngine, gpus: Gpus, plan: TrialPlan, listed: bool) -> None:
    """Run a trial that holds 4,000 MB of the first slot's GPU, and go on holding it after its end."""
    engine.start(plan, SLOTS[0])
    gpus.used_mb = 4500.0
    while not (epochs := [event for event in engine.wait(0.5) if isinstance(event, EpochRecord)]):
        continue
    if listed:
        gpus.pids = frozenset({int(epochs[0].metrics["pid"]), 1})
    engine.stop_trial(plan.number)
    collect(engine, 1)


@pytest.mark.slow
def test_a_slot_is_left_out_while_nvml_lists_its_last_worker(
    gpus: Gpus, make_engine: Callable[..., ProcessEngine], make_plan: MakePlan
) -> None:
    engine = make_engine()
    run_trial(engine, gpus, make_plan(params={"act": "wait"}), listed=True)
    assert list(engine.idle_slots()) == [SLOTS[1]]
    assert engine.releasing()
    gpus.pids = frozenset({1})
    assert engine.releasing(), "until the slots are asked for again, the loop must not take it for the end"
    assert list(engine.idle_slots()) == list(SLOTS)
    assert not engine.releasing()


def test_a_slot_whose_worker_nvml_never_lists_is_free_when_the_memory_is(
    gpus: Gpus, make_engine: Callable[..., ProcessEngine], make_plan: MakePlan
) -> None:
    engine = make_engine()
    run_trial(engine, gpus, make_plan(params={"act": "wait"}), listed=False)
    assert list(engine.idle_slots()) == [SLOTS[1]]
    gpus.used_mb = 600.0  # others use a little more than before
    assert list(engine.idle_slots()) == list(SLOTS)


def test_waiting_for_memory_does_not_spin_and_ends_when_it_is_free(
    gpus: Gpus, make_engine: Callable[..., ProcessEngine], make_plan: MakePlan
) -> None:
    engine = make_engine()
    run_trial(engine, gpus, make_plan(params={"act": "wait"}), listed=True)
    before, began = gpus.readings, time.monotonic()
    assert engine.wait(0.3) == []
    assert time.monotonic() - began >= 0.3
    assert 2 <= gpus.readings - before <= 10
    gpus.free_after = gpus.readings + 2
    assert engine.wait(60.0) == []
    assert time.monotonic() - began < 30.0
    assert list(engine.idle_slots()) == list(SLOTS)


def test_a_slot_whose_memory_is_not_freed_is_used_again_with_a_note(
    gpus: Gpus, make_engine: Callable[..., ProcessEngine], make_plan: MakePlan
) -> None:
    engine = make_engine(0.1)
    run_trial(engine, gpus, make_plan(params={"act": "wait"}), listed=True)
    assert engine.releasing()
    (note,) = engine.wait(60.0)
    assert isinstance(note, Decision)
    assert (note.number, note.topic, note.choice) == (None, "GPU memory", "slot gpu is used again")
    held = min(gpus.pids - {1})
    assert note.reason == (
        f"0.1 s after its worker ended 4000 MB more are in use than before, and NVML still lists process {held}"
    )
    assert list(engine.idle_slots()) == list(SLOTS)
    assert engine.wait(0.01) == []


SHARED = (Slot("gpu", gpu_ids=("GPU-a",), gpu_trials=2), Slot("gpub", gpu_ids=("GPU-a",), gpu_trials=2))


def test_beside_a_neighbour_whose_memory_grows_a_slot_is_free_as_soon_as_its_worker_is_not_listed(gpus: Gpus) -> None:
    memory = GpuMemory(gpus.read)
    memory.claim(SHARED[0])
    newer = memory.claim(SHARED[1])
    gpus.used_mb, gpus.pids = 9000.0, frozenset({1, 2})
    newer.release({2})
    assert not newer.is_free()
    gpus.pids = frozenset({1})
    assert newer.is_free(), "what is in use is the neighbour's"


def test_beside_a_neighbour_a_worker_that_nvml_never_lists_is_not_waited_for(gpus: Gpus) -> None:
    memory = GpuMemory(gpus.read)
    memory.claim(SHARED[0])
    newer = memory.claim(SHARED[1])
    gpus.used_mb = 9000.0
    newer.release({2})
    assert newer.is_free()


def test_the_last_of_several_on_a_gpu_leaves_as_much_as_there_was_before_the_first(gpus: Gpus) -> None:
    memory = GpuMemory(gpus.read)
    first = memory.claim(SHARED[0])
    gpus.used_mb = 4500.0
    second = memory.claim(SHARED[1])
    gpus.used_mb = 8500.0
    first.release({1})
    assert first.is_free()
    second.release({2})
    gpus.used_mb = 4500.0  # as before the second came, but the first is gone
    assert not second.is_free()
    gpus.used_mb = 500.0
    assert second.is_free()


def test_a_worker_on_another_gpu_is_no_neighbour(gpus: Gpus) -> None:
    memory = GpuMemory(gpus.read)
    claim, _ = memory.claim(SLOTS[0]), memory.claim(SLOTS[1])
    gpus.used_mb = 4500.0
    claim.release({1})
    assert not claim.is_free()


@pytest.mark.slow
def test_workers_share_a_gpu_and_a_slot_is_used_again_at_once(gpus: Gpus, make_plan: MakePlan) -> None:
    engine = ProcessEngine(SHARED, act, gpu_memory=GpuMemory(gpus.read))
    try:
        engine.start(make_plan(0, params={"act": "wait"}), SHARED[0])
        engine.start(make_plan(1), SHARED[1])
        gpus.used_mb = 9000.0
        collect(engine, 1)
        assert list(engine.idle_slots()) == [SHARED[1]]
        assert not engine.releasing()
    finally:
        engine.close()
