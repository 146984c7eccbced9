"""What a running search is told: orders, budgets, a disk that runs low, trials that all fail alike, hanging trials."""

import contextlib
import functools
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.events import Emit, EpochRecord, RunTrial, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.search import loop
from mloptimizer.search.budgets import Budgets
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.waiting import Waiting
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.orders import Order, OrderName, send_order, take_orders
from mloptimizer.store.workspace import Workspace
from tests.small_searches import LINE, Interrupt, Search, Watcher, run_small_search, train


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    """Runs a search named "s" of lines; calling it again continues it."""
    return functools.partial(run_small_search, workspace, make_dataset())


class Steered:
    """Training whose trials wait, after their first epoch, until they are told to stop or a test lets them go.

    A trial that goes on begins behind the epochs that it has made, as one with a checkpoint does.
    """

    def __init__(self, at_first_epoch: Callable[[TrialPlan], None], waiting: tuple[int, ...] = (0,)) -> None:
        self.plans: list[TrialPlan] = []
        self.go = threading.Event()
        self._at_first_epoch = at_first_epoch
        self._waiting = waiting

    def __call__(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        self.plans.append(plan)
        if plan.number not in self._waiting or plan.resumes or plan.phase is not Phase.EXPLORATION:
            return train(plan, slot, emit, should_stop)
        emit(EpochRecord(plan.number, 1, {"val_accuracy": 0.1}, 0.1))
        self._at_first_epoch(plan)
        while not should_stop():
            if self.go.wait(0.01):
                return train(plan, slot, emit, should_stop)
        return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)


def order(workspace: Workspace, *names: OrderName, trials: int = 0) -> Callable[[TrialPlan], None]:
    """Return what sends these orders."""

    def send(plan: TrialPlan) -> None:
        for name in names:
            send_order(workspace.orders("s"), Order(name, trials))

    return send


def test_orders_are_taken_once_in_their_order_and_rubbish_is_removed(workspace: Workspace) -> None:
    folder = workspace.orders("s")
    assert take_orders(folder) == []
    send_order(folder, Order(OrderName.PAUSE))
    send_order(folder, Order(OrderName.ADD_TRIALS, 3))
    for name, text in {"a": "no JSON", "b": '{"order": "fly", "trials": 0}', "c": "[1]", "d": '{"order": []}'}.items():
        (folder / f"{name}.json").write_text(text)
    assert take_orders(folder) == [Order(OrderName.PAUSE), Order(OrderName.ADD_TRIALS, 3)]
    assert list(folder.iterdir()) == []


def test_a_search_that_is_told_to_stop_keeps_what_runs_for_later(search: Search, workspace: Workspace) -> None:
    training = Steered(order(workspace, OrderName.STOP))
    summary, watcher = search(training)
    assert (summary.stopped, sum(summary.exploration.values())) == ("you asked it to stop", 0)
    assert watcher.notices[0] == "Stopping, as you asked. Running trials continue when the study is resumed."
    summary, watcher = search(training)
    assert next((p.number, p.resumes, p.attempt) for p in watcher.started) == (0, True, 2)
    assert (summary.stopped, summary.exploration[Outcome.COMPLETED]) == ("", 6)
    assert [a.kind for a in MetricsStore(workspace, "s").read_attempts(0, Phase.EXPLORATION)] == ["suspended"]


def test_a_search_that_pauses_gives_its_slots_free_and_goes_on(search: Search, workspace: Workspace) -> None:
    class Resumes(Watcher):
        def progress(self, progress: object) -> None:
            told = json.loads(workspace.running_file("s").read_text()) if self.notices else {}
            if told.get("paused_utc") and not progress.running:  # type: ignore[attr-defined]
                order(workspace, OrderName.RESUME)(training.plans[0])

    training = Steered(order(workspace, OrderName.PAUSE))
    summary, watcher = search(training, watcher=Resumes(), explore_only=True)
    assert watcher.notices[:2] == [
        "Pausing, as you asked. Running trials continue after: mloptimizer resume s",
        "Resuming, as you asked.",
    ]
    assert [(plan.number, plan.attempt) for plan in training.plans[:2]] == [(0, 1), (0, 2)]
    assert (summary.stopped, summary.exploration[Outcome.COMPLETED]) == ("", 6)


def test_trials_that_are_added_are_explored_and_remembered(search: Search, workspace: Workspace) -> None:
    training = Steered(order(workspace, OrderName.ADD_TRIALS, trials=2))

    class LetsGo(Watcher):
        def notice(self, line: str) -> None:
            super().notice(line)
            training.go.set()

    summary, watcher = search(training, watcher=LetsGo())
    assert watcher.notices == ["Exploring 2 more models, as you asked: 8 in all."]
    assert summary.exploration[Outcome.COMPLETED] == 8
    assert json.loads(workspace.study_file("s").read_text())["settings"]["trials"] == 8


def test_trials_that_are_added_during_the_long_training_are_explored_after_it(
    search: Search, workspace: Workspace
) -> None:
    sent: list[int] = []

    def add(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.phase is Phase.HALL_OF_FAME and not sent:
            sent.append(plan.number)
            order(workspace, OrderName.ADD_TRIALS, trials=2)(plan)
        return train(plan, slot, emit, should_stop)

    summary, _ = search(add)
    assert summary.exploration[Outcome.COMPLETED] == 8
    assert summary.hall_of_fame[Outcome.COMPLETED] == 4


class Hours:
    """A clock that jumps by an hour when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def jump(self, plan: TrialPlan) -> None:
        self.seconds += 3600


class Jumps(Watcher):
    """Lets an hour pass when the first epoch of trial 1 is there."""

    def __init__(self, hours: Hours) -> None:
        super().__init__()
        self._hours = hours

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        if (plan.number, plan.attempt, record.epoch) == (1, 1, 1):
            self._hours.jump(plan)


def test_when_the_hours_are_over_running_trials_wait_for_the_next_run(search: Search) -> None:
    hours = Hours()
    summary, _ = search(Steered(hours.jump, (2,)), clock=hours, max_hours=0.5)
    assert "max_hours = 0.5" in summary.stopped
    assert (summary.exploration[Outcome.COMPLETED], summary.test_evaluations) == (2, ())
    assert search(Steered(hours.jump, (2,)))[0].exploration[Outcome.COMPLETED] == 6


def test_a_reached_target_ends_the_search_with_its_test_evaluation(search: Search) -> None:
    source = LINE.replace('suggest_float("x", 0.0, 1.0)', 'suggest_float("x", 0.9, 1.0)')
    summary, watcher = search(source=source, target=0.7)
    assert summary.stopped.startswith("trial 0 ") and "target = 0.7" in summary.stopped
    assert [phase for phase, _ in watcher.ended] == [Phase.EXPLORATION, Phase.TEST_EVALUATION]
    assert len(summary.test_evaluations) == 1


def test_a_stagnant_exploration_ends_and_the_best_are_trained_on(search: Search) -> None:
    def level(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        return replace(train(plan, slot, emit, should_stop), value=0.5)

    summary, _ = search(level, trials=50, stop_when_stagnant=4)
    assert summary.exploration[Outcome.COMPLETED] == 5
    assert summary.hall_of_fame[Outcome.COMPLETED] == 2
    (note,) = summary.notes
    assert " 4 trials " in note


def test_a_disk_that_runs_low_lets_nothing_start_until_there_is_room(search: Search) -> None:
    free = iter([500.0, 100.0, 100.0, 100.0])
    summary, watcher = search(free_disk_mb=lambda workspace: next(free, 300.0), explore_only=True)
    low, enough = watcher.notices
    assert "100 MB" in low and "(min_free_disk_mb = 200)" in low
    assert "300 MB" in enough
    assert summary.exploration[Outcome.COMPLETED] == 6


def broken(message: str, numbers: tuple[int, ...] = (0, 1, 2)) -> RunTrial:
    def run(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number in numbers:
            return failed(plan.number, FailureKind.SPACE_ERROR, message.format(plan.number))
        return train(plan, slot, emit, should_stop)

    return run


def test_a_broken_space_stops_the_search_after_three_trials(search: Search, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match=r"build raised ValueError: 2 units. The first 3 trials all failed alike"):
        search(broken("search space 'line': build raised ValueError: {} units"), trials=100)
    assert len(MetricsStore(workspace, "s").trials()) == 3


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (0, 1, 3, 4)])
def test_a_space_of_which_a_trial_was_trained_goes_on(search: Search, numbers: tuple[int, ...]) -> None:
    summary, _ = search(broken("build raised", numbers), explore_only=True)
    assert summary.exploration == {Outcome.COMPLETED: 2, Outcome.PRUNED: 0, Outcome.FAILED: 4}


def test_a_trial_that_crashes_goes_on_from_where_it_was(search: Search, workspace: Workspace) -> None:
    def crash(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if plan.number == 1 and plan.attempt <= 2:
            emit(EpochRecord(1, plan.attempt, {"val_accuracy": 0.1}, 0.1))
            return failed(1, FailureKind.CRASH, "the worker was killed by SIGKILL")
        return train(plan, slot, emit, should_stop)

    summary, watcher = search(crash, explore_only=True)
    assert [line.startswith("trial 1: crash: the worker was killed by SIGKILL") for line in watcher.again] == [True] * 2
    assert summary.exploration[Outcome.COMPLETED] == 6
    record = MetricsStore(workspace, "s").trial(1)
    assert record is not None and [epoch["epoch"] for epoch in record.epochs] == [1, 2, 3]
    assert record.plan["attempt"] == 3
    assert "trial 1  epochs trained again: 2  (attempt 3 " in workspace.strategy_log.read_text()


def test_a_trial_that_always_crashes_fails_and_says_how_often(search: Search) -> None:
    def crash(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        return failed(1, FailureKind.CRASH, "gone") if plan.number == 1 else train(plan, slot, emit, should_stop)

    summary, watcher = search(crash, explore_only=True)
    (failure,) = [result.failure for _, result in watcher.ended if result.failure]
    assert failure.message == "gone (3 attempts in a row ended like this without a new epoch)"
    assert summary.exploration[Outcome.COMPLETED] == 5


def test_a_trial_that_takes_too_long_fails_and_the_study_learns(search: Search, workspace: Workspace) -> None:
    hours = Hours()
    trains = Steered(lambda plan: None, (1,))
    summary, watcher = search(
        trains, clock=hours, watcher=Jumps(hours), trial_minutes=30, hang_minutes=90, explore_only=True
    )
    (failure,) = [result.failure for _, result in watcher.ended if result.failure]
    assert (failure.kind, "30 minutes (trial_minutes)" in failure.message) == (FailureKind.TIME_LIMIT, True)
    assert summary.exploration[Outcome.COMPLETED] == 5


def test_a_trial_that_hangs_is_ended_and_tried_once_more(search: Search) -> None:
    hours = Hours()
    summary, watcher = search(Steered(lambda plan: None, (1,)), clock=hours, watcher=Jumps(hours), explore_only=True)
    (again,) = watcher.again
    assert again.startswith("trial 1: hung: ") and "10 minutes (hang_minutes)" in again
    assert summary.exploration[Outcome.COMPLETED] == 6


def test_a_trial_that_does_not_obey_is_killed(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    let_go = threading.Event()

    def kill(self: object, number: int) -> None:
        killed.append(number)
        let_go.set()

    monkeypatch.setattr("mloptimizer.engines.thread_engine.ThreadEngine.kill_trial", kill)
    hours = Hours()

    def deaf(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        if (plan.number, plan.attempt, plan.phase) == (0, 1, Phase.EXPLORATION):
            emit(EpochRecord(0, 1, {"val_accuracy": 0.1}, 0.1))
            hours.seconds += 1800
            while not should_stop():
                let_go.wait(0.01)
            hours.seconds += loop.STOP_SECONDS + 1
            assert let_go.wait(60)
            return failed(0, FailureKind.CRASH, "killed")
        return train(plan, slot, emit, should_stop)

    summary, _ = search(deaf, clock=hours, max_hours=0.4)
    assert ("max_hours = 0.4" in summary.stopped, set(killed)) == (True, {0})
    assert search(deaf)[0].exploration[Outcome.COMPLETED] == 6


def test_after_a_trial_found_the_disk_full_none_starts_until_there_is_more_room() -> None:
    free = 3.0
    disk = DiskWatch(Path("metrics_data"), lambda: free, least_mb=0)
    assert disk.look() == ""
    disk.note_full()
    assert disk.look() == (
        "metrics_data: only 3 MB are free (too few for a trial that had to write). No trial starts until there is more."
    )
    free = 9.9
    assert (disk.look(), disk.low) == ("", True)
    free = 10.0
    assert (disk.look(), disk.low) == ("metrics_data: 10 MB are free again. The search continues.", False)
    free = 3.0
    assert (disk.look(), disk.low) == ("", False)
    free = 39.0
    disk.note_full()  # what was free did not do
    assert " 39 MB " in disk.look()
    free = 40.0
    disk.look()
    assert not disk.low


def test_a_trouble_that_lasts_is_told_once_and_once_that_it_has_passed() -> None:
    watcher, clock = Watcher(), [0.0]
    budgets = Budgets(Settings(max_hours=1), lambda: clock[0], lambda: 0.0)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    waiting = Waiting(budgets, watcher, contextlib.nullcontext, lambda: clock[0], sleep)
    assert waiting.look() == ""
    for place in ("epochs.jsonl", "studies.journal", "studies.journal"):
        waiting(f"{place}: No space left on device")
    waits = "The search waits, and continues when it can. Ctrl-C ends it."
    assert watcher.notices == [f"epochs.jsonl: No space left on device. {waits}"]
    clock[0] += 40.5
    assert waiting.look() == "The search continues, after 42 s of waiting."
    assert waiting.look() == ""
    waiting("studies.journal: No space left on device")
    assert len(watcher.notices) == 2
    clock[0] = 3600.0
    with pytest.raises(RunError, match=r"No space left on device.*max_hours = 1 "):
        waiting("studies.journal: No space left on device")
    asked = Waiting(budgets, watcher, Interrupt(1), lambda: clock[0], sleep)
    with pytest.raises(KeyboardInterrupt):
        asked("studies.journal: No space left on device")
    assert len(watcher.notices) == 2
