"""What every engine promises, as tests that each engine's own test class inherits.

The stand-ins for `run_trial` are functions of this module, so that other processes can import them. What a stand-in
does is chosen by the plan's parameter ``act``.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Emit, EpochRecord, Event, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Params, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.engines.contract import Engine

SLOTS = (Slot("one", cpu_ids=(0,)), Slot("two", cpu_ids=(0,)))
PATIENCE_SECONDS = 120  # a stuck engine fails the test; nothing waits this long otherwise


def act(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Do what the plan's parameters say."""
    what = plan.params.get("act", "finish")
    emit(EpochRecord(plan.number, 1, {"val_accuracy": 0.5, "pid": float(os.getpid())}, 0.1))
    if what == "wait":
        while not should_stop():
            time.sleep(0.01)
        return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)
    if what == "raise":
        raise RuntimeError("a worker must never raise")
    if what == "exit":
        sys.exit(3)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return TrialResult(plan.number, Outcome.COMPLETED, 0.5, 0.1)


def bare_plan(number: int, params: Params, directory: str) -> TrialPlan:
    """Return a plan of which nothing else matters; for a driver in another process."""
    dataset = DatasetInfo("s", "classification", (8, 8, 1), 2, ("a", "b"), 1, 1, 1, (0.0,), (1.0,), "", "", 0, 0.2, 0)
    folder = str(Path(directory) / f"trial_{number:05d}")
    return TrialPlan("s", number, Phase.EXPLORATION, "line", "", params, dataset, 1, 1, 0, folder, settings=Settings())


def collect(engine: Engine, results: int) -> list[Event]:
    """Return all events until so many results have come."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(isinstance(event, TrialResult) for event in events) < results:
        assert time.monotonic() < deadline, f"no further result; so far: {events}"
        events += engine.wait(0.5)
    return events


def results_of(events: list[Event]) -> list[TrialResult]:
    return [event for event in events if isinstance(event, TrialResult)]


class EngineContract:
    """Inherited by the tests of each engine, which only say how to make one."""

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        engine = self.make()
        yield engine
        engine.close()

    def make(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def slots(self, engine: Engine) -> Sequence[Slot]:
        """The two slots of a new engine."""
        return SLOTS

    def test_a_new_engine_has_only_idle_slots(self, engine: Engine, slots: Sequence[Slot]) -> None:
        assert list(engine.idle_slots()) == list(slots)

    def test_a_slot_is_busy_until_the_result_was_handed_over(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(), slots[0])
        assert list(engine.idle_slots()) == [slots[1]]
        collect(engine, 1)
        assert list(engine.idle_slots()) == list(slots)

    def test_events_come_in_order_and_the_result_last(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(4), slots[0])
        events = collect(engine, 1)
        assert [type(event) for event in events] == [EpochRecord, TrialResult]
        assert results_of(events)[0].number == 4

    def test_two_slots_run_two_trials_at_once(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        for number, slot in enumerate(slots):
            engine.start(make_plan(number, params={"act": "wait"}), slot)
        assert list(engine.idle_slots()) == []
        engine.stop_trial(0)
        engine.stop_trial(1)
        assert {result.number for result in results_of(collect(engine, 2))} == {0, 1}

    def test_a_stopped_trial_ends_with_its_own_result(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(params={"act": "wait"}), slots[0])
        engine.stop_trial(0)
        assert results_of(collect(engine, 1))[0].outcome is Outcome.PRUNED

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.parametrize("death", ["raise", "exit"])
    def test_a_worker_that_dies_yields_exactly_one_failed_result(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan], death: str
    ) -> None:
        engine.start(make_plan(params={"act": death}), slots[0])
        (result,) = results_of(collect(engine, 1))
        assert result.failure is not None
        assert result.failure.kind is FailureKind.CRASH
        assert engine.wait(0.01) == []

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_slot_serves_again_after_a_death(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(0, params={"act": "exit"}), slots[0])
        collect(engine, 1)
        engine.start(make_plan(1), slots[0])
        assert results_of(collect(engine, 1))[0].outcome is Outcome.COMPLETED

    def test_stopping_an_unknown_trial_changes_nothing(self, engine: Engine) -> None:
        engine.stop_trial(77)
        assert engine.wait(0.01) == []

    def test_a_killed_trial_yields_exactly_one_result_and_its_slot_serves_again(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(0, params={"act": "wait"}), slots[0])
        engine.start(make_plan(1, params={"act": "wait"}), slots[1])
        engine.kill_trial(0)
        (result,) = results_of(collect(engine, 1))
        assert (result.number, result.value) == (0, None)
        assert results_of(engine.wait(0.01)) == []  # the other trial's epoch may come now
        engine.start(make_plan(2), slots[0])
        assert [result.number for result in results_of(collect(engine, 1))] == [2]

    def test_killing_unknown_and_ended_trials_changes_nothing(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.kill_trial(77)
        engine.start(make_plan(), slots[0])
        assert results_of(collect(engine, 1))[0].outcome is Outcome.COMPLETED
        engine.kill_trial(0)
        assert engine.wait(0.01) == []

    def test_slots_without_gpus_are_free_as_soon_as_their_trial_ended(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(), slots[0])
        collect(engine, 1)
        assert list(engine.idle_slots()) == list(slots)
        assert not engine.releasing()

    def test_nothing_comes_after_close(
        self, engine: Engine, slots: Sequence[Slot], make_plan: Callable[..., TrialPlan]
    ) -> None:
        engine.start(make_plan(params={"act": "wait"}), slots[0])
        engine.close()
        assert engine.wait(0.01) == []
        assert list(engine.idle_slots()) == list(slots)
