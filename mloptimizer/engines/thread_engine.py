"""Runs each trial in a thread of this process: for breakpoints and for tests."""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mloptimizer.core.events import Event, RunTrial
from mloptimizer.core.nouns import FailureKind, Slot, TrialPlan, TrialResult, failed


@dataclass
class _Running:
    slot: Slot
    stop: threading.Event
    thread: threading.Thread


class ThreadEngine:
    """An `Engine` without processes: a trial that brings the process down brings the search down too.

    A thread cannot be killed: `kill_trial` only asks the trial to end, and `close` waits for it.
    """

    def __init__(self, slots: Sequence[Slot], run_trial: RunTrial) -> None:
        self._slots = tuple(slots)
        self._run_trial = run_trial
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running: dict[int, _Running] = {}

    def idle_slots(self) -> Sequence[Slot]:
        busy = {running.slot.name for running in self._running.values()}
        return [slot for slot in self._slots if slot.name not in busy]

    def releasing(self) -> bool:
        return False  # a trial frees its memory when it ends

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(plan, slot, stop), name=f"trial {plan.number}")
        self._running[plan.number] = _Running(slot, stop, thread)
        thread.start()

    def _work(self, plan: TrialPlan, slot: Slot, stop: threading.Event) -> None:
        result = failed(plan.number, FailureKind.CRASH, "the trial's thread ended without a result")
        try:
            result = self._run_trial(plan, slot, self._events.put, stop.is_set)
        finally:
            self._events.put(result)

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        try:
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in events:
            if isinstance(event, TrialResult):
                self._running.pop(event.number, None)
        return events

    def stop_trial(self, number: int) -> None:
        if number in self._running:
            self._running[number].stop.set()

    kill_trial = stop_trial

    def close(self) -> None:
        for running in self._running.values():
            running.stop.set()
        for running in self._running.values():
            running.thread.join()
        self._running.clear()
        self._events = queue.SimpleQueue()
