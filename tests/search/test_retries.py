"""Trials that start again: with less memory, or after they gave way to others."""

import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Emit, EndedAttempt, EpochRecord, HardwareSample, MicroBatching, RunTrial, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.search.retries import RETRIES, NextAttempt, find_next_attempt
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage
from mloptimizer.training.memory.batch_plan import plan_batch
from tests.small_searches import Interrupt, Search, Watcher, run_small_search, train

MakePlan = Callable[..., TrialPlan]
CPU = Slot("cpu")


def out_of_memory(number: int = 0, micro_batch: int = 0, accumulation_steps: int = 0) -> TrialResult:
    failure = failed(number, FailureKind.OUT_OF_MEMORY, "no room").failure
    batch = {"micro_batch": micro_batch, "accumulation_steps": accumulation_steps}
    return TrialResult(number, Outcome.FAILED, None, 1.0, failure=failure, **batch)


def next_steps(plan: TrialPlan, result: TrialResult, slot: Slot = CPU) -> int:
    """Return the accumulation steps of the attempt that follows."""
    following = find_next_attempt(plan, slot, result, [])
    assert isinstance(following, NextAttempt)
    assert following.plan.attempt == plan.attempt + 1
    return following.plan.accumulation_steps


@pytest.mark.parametrize("micro_batch", [0, 64], ids=["died before it told", "told"])
def test_after_an_exhausted_memory_half_the_images_are_taken_at_a_time(make_plan: MakePlan, micro_batch: int) -> None:
    plan = make_plan(3, params={"x": 1})
    following = find_next_attempt(plan, CPU, out_of_memory(3, micro_batch), [])
    assert isinstance(following, NextAttempt)
    assert following.words == "out of memory with micro-batches of 64; again with 32"
    assert (following.plan.number, following.plan.params, following.plan.seed) == (3, {"x": 1}, plan.seed)
    assert (following.plan.attempt, following.plan.accumulation_steps) == (2, 2)


def test_the_images_of_a_step_stay_the_same(make_plan: MakePlan) -> None:
    plan, slot = make_plan(settings=Settings(batch_size=48)), Slot("gpus", gpu_ids=("a", "b"))
    whole = plan_batch(plan.settings, plan.dataset.train_size, 2)
    half = plan_batch(plan.settings, plan.dataset.train_size, 2, next_steps(plan, out_of_memory(), slot))
    assert (whole.global_batch, whole.micro_batch) == (192, 96)
    assert (half.global_batch, half.micro_batch) == (192, 48)


def test_micro_batches_that_the_trial_chose_itself_are_halved(make_plan: MakePlan) -> None:
    assert next_steps(make_plan(), out_of_memory(micro_batch=16, accumulation_steps=4)) == 8


def test_a_measured_batch_is_halved_as_the_trial_told_it(make_plan: MakePlan) -> None:
    plan = make_plan(settings=Settings(batch_size="auto"))
    assert next_steps(plan, out_of_memory(micro_batch=512)) == 2


@pytest.mark.parametrize("told", [0, 8])
def test_below_the_smallest_micro_batch_a_trial_has_failed_with_its_size(make_plan: MakePlan, told: int) -> None:
    result = find_next_attempt(make_plan(accumulation_steps=8, attempt=4), CPU, out_of_memory(0, told), [])
    assert isinstance(result, TrialResult) and result.failure
    assert result.failure.kind is FailureKind.OUT_OF_MEMORY
    assert result.failure.message == "no room (with micro-batches of 8; min_micro_batch = 8)"
    assert result.micro_batch == 8


def ended(kind: FailureKind, *epochs: int) -> list[EndedAttempt]:
    return [EndedAttempt(number, kind, "gone", count, 1.0) for number, count in enumerate(epochs, start=1)]


FURTHER_ATTEMPTS = {
    FailureKind.NON_FINITE: 0,
    FailureKind.CRASH: 2,
    FailureKind.LOST_WORKER: 5,
    FailureKind.HUNG: 1,
    FailureKind.TIME_LIMIT: 0,
    FailureKind.SPACE_ERROR: 0,
    FailureKind.DATA_ERROR: 1,
    FailureKind.DISK_FULL: 3,
    FailureKind.INTERRUPTED: 1,
    FailureKind.ERROR: 0,
}


def test_every_kind_of_failure_is_tried_here() -> None:
    assert {*FURTHER_ATTEMPTS, FailureKind.OUT_OF_MEMORY} == set(FailureKind)


@pytest.mark.parametrize(("kind", "times"), FURTHER_ATTEMPTS.items())
def test_a_failure_is_tried_again_so_often(make_plan: MakePlan, kind: FailureKind, times: int) -> None:
    failure = failed(0, kind, "gone")
    for count in range(1, times + 1):
        following = find_next_attempt(make_plan(), CPU, failure, ended(kind, *[2] * count))
        assert isinstance(following, NextAttempt)
        assert (following.plan.attempt, following.plan.resumes) == (2, True)
        assert following.words == f"{kind}: gone; again, from epoch 3"
    last = find_next_attempt(make_plan(), CPU, failure, ended(kind, *[2] * (times + 1)))
    assert isinstance(last, TrialResult) and last.failure
    assert last.failure.kind is kind
    assert (f" ({times + 1} " in last.failure.message) == (times > 0)


def test_a_new_epoch_makes_the_count_begin_anew(make_plan: MakePlan) -> None:
    crash = failed(0, FailureKind.CRASH, "gone")
    before = ended(FailureKind.CRASH, 1, 1, 2, 2, 3, 4)
    assert isinstance(find_next_attempt(make_plan(), CPU, crash, before), NextAttempt)


def test_a_test_evaluation_that_runs_out_of_memory_is_not_tried_again(make_plan: MakePlan) -> None:
    short = out_of_memory()
    assert (
        find_next_attempt(make_plan(phase=Phase.TEST_EVALUATION), CPU, short, ended(FailureKind.OUT_OF_MEMORY, 0))
        is short
    )


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    """Runs a search named "s" of lines; calling it again continues it."""
    return functools.partial(run_small_search, workspace, make_dataset())


def fitting(largest: int, numbers: tuple[int, ...] = (1,)) -> RunTrial:
    """Return training that runs out of memory with larger micro-batches, in these trials, after an epoch."""

    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        batch = plan_batch(plan.settings, plan.dataset.train_size, 1, plan.accumulation_steps).micro_batch
        if plan.phase is Phase.TEST_EVALUATION or plan.number not in numbers or batch <= largest:
            return train(plan, slot, emit, should_stop)
        emit(EpochRecord(plan.number, 1, {"val_accuracy": 0.125}, 0.1))
        emit(HardwareSample(plan.number, {"time_utc": f"attempt {plan.attempt}", "seconds": 0.5}))
        return out_of_memory(plan.number, batch)

    return run


def test_a_trial_that_needs_less_memory_is_one_trial_of_the_search(search: Search, workspace: Workspace) -> None:
    summary, watcher = search(fitting(16), explore_only=True)
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert [result.number for _, result in watcher.ended] == list(range(6))
    assert [plan.accumulation_steps for plan in watcher.started if plan.number == 1] == [1, 2, 4]
    log = workspace.strategy_log.read_text()
    assert "trial 1  micro-batch: 16  (attempt 2 ran out of memory with 32: no room)" in log


def test_the_records_are_those_of_all_attempts_and_every_epoch_stands_once(
    search: Search, workspace: Workspace
) -> None:
    search(fitting(16), explore_only=True)
    store = MetricsStore(workspace, "s")
    record = store.trial(1)
    assert record is not None
    assert (record.plan["attempt"], record.plan["accumulation_steps"]) == (3, 4)
    assert [epoch["epoch"] for epoch in record.epochs] == [1, 2, 3]
    assert [(a.attempt, a.kind, a.epochs) for a in store.read_attempts(1, Phase.EXPLORATION)] == [
        (1, "out_of_memory", 1),
        (2, "out_of_memory", 1),
    ]
    log = workspace.hardware_log("s", 1).read_text()
    assert log.index("attempt 1") < log.index("attempt 2")


def test_the_study_counts_an_epoch_that_is_trained_again_once(search: Search, workspace: Workspace) -> None:
    search(fitting(16), explore_only=True)
    stored = optuna.load_study(study_name="s", storage=open_storage("", workspace.journal)).trials
    assert len(stored) == 6
    assert list(stored[1].intermediate_values) == [1, 2, 3]
    assert stored[1].intermediate_values[1] == 0.125


def test_long_trainings_are_tried_again_too(search: Search) -> None:
    everything = fitting(32, tuple(range(6)))

    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        exploring = plan.phase is Phase.EXPLORATION
        return (train if exploring else everything)(plan, slot, emit, should_stop)

    summary, watcher = search(run, hall_of_fame_size=1)
    assert len(watcher.again) == 1
    assert summary.hall_of_fame[Outcome.COMPLETED] == 1


def test_what_fitted_in_the_exploration_is_where_long_training_and_test_evaluation_begin(search: Search) -> None:
    _, watcher = search(fitting(16, tuple(range(6))), hall_of_fame_size=1)
    assert len(watcher.again) == 12
    later = [plan for plan in watcher.started if plan.phase is not Phase.EXPLORATION]
    assert [(plan.attempt, plan.accumulation_steps) for plan in later] == [(1, 4), (1, 4)]


def test_what_a_trial_of_the_exploration_chose_itself_is_where_long_training_begins(search: Search) -> None:
    def choose(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        return dataclasses.replace(train(plan, slot, emit, should_stop), micro_batch=8, accumulation_steps=8)

    _, watcher = search(choose, hall_of_fame_size=1)
    assert [plan.accumulation_steps for plan in watcher.started] == [1] * 6 + [8, 8]


def dying(divisions: dict[int, tuple[int, int]]) -> RunTrial:
    """Return training whose worker dies for want of memory, in the first trial: by attempt, what it told before."""

    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number or plan.attempt > 2:
            return train(plan, slot, emit, should_stop)
        if plan.attempt in divisions:
            emit(MicroBatching(plan.number, 2, 256))
            emit(MicroBatching(plan.number, *divisions[plan.attempt], memory_mb=75.0))
        return out_of_memory(plan.number)

    return run


def test_a_worker_that_died_is_tried_again_with_half_of_what_it_last_told(search: Search) -> None:
    _, watcher = search(dying({1: (64, 8), 2: (32, 16)}), batch_size="auto", explore_only=True)
    assert [plan.accumulation_steps for plan in watcher.started[:3]] == [1, 16, 32]


def test_what_an_earlier_attempt_told_does_not_count_for_the_next(search: Search) -> None:
    _, watcher = search(dying({1: (32, 2)}), explore_only=True)
    assert [plan.accumulation_steps for plan in watcher.started[:3]] == [1, 4, 8]


def test_the_record_of_a_worker_that_died_has_its_division(search: Search, workspace: Workspace) -> None:
    search(dying({1: (64, 8)}), batch_size="auto", min_micro_batch=64, explore_only=True)
    result = json.loads((workspace.trial("s", 0) / "result.json").read_text())
    assert (result["micro_batch"], result["accumulation_steps"], result["memory_mb"]) == (64, 8, 75.0)


def test_a_trial_that_never_fits_fails_and_the_search_goes_on(search: Search, workspace: Workspace) -> None:
    summary, watcher = search(fitting(4))
    assert (summary.exploration[Outcome.COMPLETED], summary.exploration[Outcome.FAILED]) == (5, 1)
    assert len(watcher.again) == 3
    result = json.loads((workspace.trial("s", 1) / "result.json").read_text())
    assert result["failure"]["kind"] == "out_of_memory"
    assert result["micro_batch"] == 8


@pytest.mark.parametrize("use", range(4, 12))
def test_a_search_interrupted_between_two_attempts_loses_nothing(search: Search, use: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        search(fitting(16, (0, 1)), interruptible=Interrupt(use), explore_only=True)
    summary, _ = search(fitting(16), explore_only=True)
    assert summary.exploration[Outcome.COMPLETED] == 6


class Machine:
    """Two trials that fill the memory: the second stops when told to, the first ends when that was seen."""

    def __init__(self, percent_afterwards: float) -> None:
        self.percent = 50.0
        self.alone: list[bool] = []  # of each start: whether no other trial ran
        self._afterwards = percent_afterwards
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._full, self._first_may_end = threading.Event(), threading.Event()

    def memory_percent(self) -> float:
        return self.percent

    def run(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        with self._lock:
            self.alone.append(not self._running)
            self._running.add(plan.number)
        try:
            return self._train(plan, slot, emit, should_stop)
        finally:
            self._running.discard(plan.number)

    def _train(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number == 0:
            assert self._first_may_end.wait(60)
        if (plan.number, plan.attempt) == (1, 1):
            self.percent = 95.0
            while not should_stop():
                self._full.wait(0.01)
            self.percent = self._afterwards
            return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)
        return train(plan, slot, emit, should_stop)

    def attempt_was_seen(self) -> None:
        self._first_may_end.set()


class Signal(Watcher):
    """A watcher that lets the machine's first trial end once the second gave way."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        super().attempt_ended(plan, attempt, reason)
        self._machine.attempt_was_seen()


def fill(search: Search, percent_afterwards: float, **changes: Any) -> tuple[Watcher, Machine]:
    machine = Machine(percent_afterwards)
    _, watcher = search(
        machine.run,
        slots=2,
        explore_only=True,
        memory_percent=machine.memory_percent,
        watcher=Signal(machine),
        **changes,
    )
    return watcher, machine


def test_the_newest_trial_gives_way_and_is_trained_again(search: Search, workspace: Workspace) -> None:
    watcher, _ = fill(search, percent_afterwards=60.0, trials=3)
    (again,) = watcher.again
    assert again.startswith("trial 1: stopped, ") and again.endswith(" 80 %")
    assert {result.outcome for _, result in watcher.ended} == {Outcome.COMPLETED}
    assert sorted(result.number for _, result in watcher.ended) == [0, 1, 2]
    assert [plan.number for plan in watcher.started if plan.attempt == 2] == [1]
    log = workspace.strategy_log.read_text()
    assert "trial 1  main memory: stop and queue again  (95.0 % " in log


def test_while_the_memory_stays_tight_trials_run_one_at_a_time(search: Search) -> None:
    watcher, machine = fill(search, percent_afterwards=85.0, trials=4)
    assert len(watcher.ended) == 4
    assert machine.alone == [True, False, True, True, True]


def test_a_single_trial_is_never_stopped(search: Search) -> None:
    summary, watcher = search(memory_percent=lambda: 99.0, explore_only=True)
    assert watcher.again == []
    assert summary.exploration[Outcome.COMPLETED] == 6


def test_the_docs_have_the_table_of_retries() -> None:
    rows = ["| kind of failure | further attempts in a row | what changes |", "|---|---|---|"]
    for kind, retry in RETRIES.items():
        times = "as long as that is possible" if retry.times is None else str(retry.times)
        rows.append(f"| `{kind}` | {times} | {retry.change} |")
    assert "\n".join(rows) + "\n" in (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
