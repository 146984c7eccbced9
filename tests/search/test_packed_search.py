"""Searches whose trials share a GPU: the real loop, study and records; training and NVML are a few lines."""

import csv
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from mloptimizer.core.events import Emit, EndedAttempt, HardwareSample, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.hardware.read import nvml
from mloptimizer.hardware.read.nvml import GpuUse
from mloptimizer.search.running_trials import Running, count_neighbours
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.recorder import Recorder
from mloptimizer.store.workspace import Workspace
from tests.small_searches import Search, Watcher, run_small_search, train

SLOTS = [Slot(name, gpu_ids=("GPU-a",), gpu_memory_mb=16_000, gpu_trials=2) for name in ("gpu0", "gpu0b")]


def read_gpus(uuids: Sequence[str]) -> GpuUse:
    return GpuUse(frozenset(), 2000.0, 14_000.0)


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    gpus = [nvml.Gpu(0, "GPU-a", "a GPU", 16_000, (8, 0), "575.1", False)]
    return functools.partial(
        run_small_search,
        workspace,
        make_dataset(),
        slots=SLOTS,
        read_gpus=read_gpus,
        list_gpus=lambda: gpus,
        explore_only=True,
        trials=4,
    )


@pytest.fixture
def recorder(workspace: Workspace) -> Iterator[Recorder]:
    recorder = Recorder(workspace, "test", MetricsStore(workspace, "test"))
    yield recorder
    recorder.search_ended()


class Gpu(Watcher):
    """Trial 0 trains until trial 1, which came second, was stopped or failed, and may begin anew; others just train."""

    def __init__(self) -> None:
        super().__init__()
        self.beside: list[tuple[int, int]] = []  # of each start: the trial, and how many others ran
        self._running: set[tuple[int, int]] = set()
        self._lock, self._second_ended = threading.Lock(), threading.Event()

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        super().attempt_ended(plan, attempt, reason)
        self._second_ended.set()

    def run(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        with self._lock:
            self.beside.append((plan.number, len(self._running)))
            self._running.add((plan.number, plan.attempt))
        try:
            return self._train(plan, slot, emit, should_stop)
        finally:
            self._running.discard((plan.number, plan.attempt))

    def _train(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number == 0:
            self._emit_rows(plan, emit, self._second_ended.is_set)
        if (plan.number, plan.attempt) == (1, 1):
            return self._come_second(plan, emit, should_stop)
        return train(plan, slot, emit, should_stop)

    def _come_second(self, plan: TrialPlan, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        self._emit_rows(plan, emit, should_stop)
        return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)

    def _emit_rows(self, plan: TrialPlan, emit: Emit, ended: Callable[[], bool]) -> None:
        """Emit a row of a second's training after the other, on 100 images, or 40 beside another trial."""
        images, seconds, pause = 0.0, 0.0, threading.Event()
        while not ended():
            images, seconds = images + (100 if len(self._running) == 1 else 40), seconds + 1
            row = {
                "time_utc": "t",
                "part": "training",
                "epoch": 1 if seconds == 1 else 2,
                "images": images,
                "training_s": seconds,
                "gpu0_utilization_percent": 20.0,
                "gpu0_memory_used_mb": 2000.0,
                "gpu0_process_memory_mb": 2000.0,
            }
            emit(HardwareSample(plan.number, row))
            pause.wait(0.002)


class Crowded(Gpu):
    """Trial 1 runs out of memory beside trial 0."""

    def _come_second(self, plan: TrialPlan, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        return failed(plan.number, FailureKind.OUT_OF_MEMORY, "no room", 0.1)


def check_every_trial_ended_once(watcher: Watcher) -> None:
    assert Counter(result.number for _, result in watcher.ended) == Counter(range(4))
    assert {result.outcome for _, result in watcher.ended} == {Outcome.COMPLETED}


def test_a_trial_that_does_not_pay_beside_another_makes_way_and_is_trained_later(
    search: Search, workspace: Workspace
) -> None:
    gpu = Gpu()
    search(gpu.run, watcher=gpu, trials_per_gpu="auto")
    check_every_trial_ended_once(gpu)
    assert [line.partition(": ")[0] for line in gpu.again] == ["trial 1"]
    assert gpu.beside[:2] == [(0, 0), (1, 1)]
    assert sorted(gpu.beside[2:]) == [(1, 0), (2, 0), (3, 0)], "the GPU has no company any more"
    (ended,) = MetricsStore(workspace, "s").read_attempts(1, Phase.EXPLORATION)
    assert (ended.kind, ended.message) == ("sharing", "stopped because sharing its GPU did not pay")
    log = workspace.strategy_log.read_text()
    assert "trial 1  trials per GPU: 2 on the GPU of slot gpu0b  (" in log
    assert "trial 1  trials per GPU: 1 on the GPU of slot gpu0b  (trial 0: 40 images/s " in log


def test_the_log_says_how_many_trials_ran_on_the_gpu(search: Search, workspace: Workspace) -> None:
    gpu = Gpu()
    search(gpu.run, watcher=gpu, trials_per_gpu="auto")

    def counts(number: int) -> list[float]:
        with workspace.hardware_log("s", number).open() as file:
            return [float(row["trials_on_gpu"]) for row in csv.DictReader(file)]

    first = counts(0)
    assert set(first) == {1.0, 2.0}
    assert (first[0], sorted(first[: first.index(2.0)])[-1]) == (1.0, 1.0)
    assert counts(1)[0] == 2.0
    assert set(counts(3)) == {1.0}


def neighbours(make_plan: Callable[..., TrialPlan], what: str, *slots: Slot) -> list[int]:
    running = [Running(make_plan(number), slot, 0) for number, slot in enumerate(slots)]
    return [count_neighbours(trial, running)[what] for trial in running]


def test_a_trial_without_a_gpu_is_alone(make_plan: Callable[..., TrialPlan]) -> None:
    assert neighbours(make_plan, "trials_on_gpu", Slot("cpu0"), Slot("cpu1")) == [1, 1]


def test_trials_with_some_gpus_in_common_are_counted(make_plan: Callable[..., TrialPlan]) -> None:
    slots = [Slot(name, gpu_ids=gpus) for name, gpus in (("x", ("a", "b")), ("y", ("b",)), ("z", ("c",)))]
    assert neighbours(make_plan, "trials_on_gpu", *slots) == [2, 2, 1]


def test_trials_whose_slots_have_no_cores_of_their_own_share_those_of_their_machine(
    make_plan: Callable[..., TrialPlan],
) -> None:
    slots = [Slot("a", "one", cpu_ids=(0, 1)), Slot("b", "one", cpu_ids=(2,)), Slot("c", "two"), Slot("d", "two")]
    assert neighbours(make_plan, "trials_on_cores", *slots) == [1, 1, 2, 2]


def test_the_log_of_a_trial_on_another_machine_has_the_columns_of_its_cores(
    workspace: Workspace, recorder: Recorder, make_plan: Callable[..., TrialPlan]
) -> None:
    plan = make_plan(0)
    recorder.trial_started(plan, Slot("far", cpu_ids=(0,)))
    for seconds in (1.0, 2.0):
        row = {"seconds": seconds, "core96_percent": 50.0, "gpu0_power_w": 200.0}
        recorder.hardware_sampled(plan, HardwareSample(0, row))
    with workspace.hardware_log("test", 0, plan.phase).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seconds"], row["core96_percent"], row["gpu0_power_w"]) for row in rows] == [
        ("1.0", "50.0", "200.0"), ("2.0", "50.0", "200.0")
    ]  # fmt: skip


def test_with_a_stated_number_trials_start_beside_others_at_once(search: Search) -> None:
    together = threading.Barrier(2)

    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number < 2:
            together.wait(60)
        return train(plan, slot, emit, should_stop)

    _, watcher = search(run, trials_per_gpu=2)
    check_every_trial_ended_once(watcher)


def test_out_of_memory_beside_another_is_not_the_trials_fault(search: Search, workspace: Workspace) -> None:
    gpu = Crowded()
    search(gpu.run, watcher=gpu, trials_per_gpu=2)
    check_every_trial_ended_once(gpu)
    assert gpu.again == ["trial 1: out of memory beside another trial on its GPU; again alone"]
    again = next(plan for plan in gpu.started if plan.attempt == 2)
    assert (again.number, again.accumulation_steps, again.resumes) == (1, 1, True)
    assert sorted(gpu.beside[2:]) == [(1, 0), (2, 0), (3, 0)]
    log = workspace.strategy_log.read_text()
    assert "trial 1  attempt: 2, alone  (" in log
    assert "trial 1  trials per GPU: 1 on the GPU of slot gpu0b  (" in log


def test_out_of_memory_alone_halves_the_micro_batch_as_ever(search: Search) -> None:
    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if (plan.number, plan.attempt) == (0, 1):
            return failed(0, FailureKind.OUT_OF_MEMORY, "no room", 0.1)
        return train(plan, slot, emit, should_stop)

    _, watcher = search(run, trials_per_gpu="auto")
    assert [plan.accumulation_steps for plan in watcher.started if plan.number == 0] == [1, 2]
