"""Runs each trial in a thread of this process: to stop at breakpoints, and for tests."""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from mloptimizer.core.events import Event, RunTrial
from mloptimizer.core.nouns import FailureKind, Slot, TrialPlan, TrialResult, failed


@dataclass
class _Running:
    slot: Slot
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class ThreadEngine:
    """An `Engine` without processes: a trial that takes the process down takes the search down with it."""

    def __init__(self, slots: Sequence[Slot], run_trial: RunTrial) -> None:
        self._slots = tuple(slots)
        self._run_trial = run_trial
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running: dict[int, _Running] = {}

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which no trial runs."""
        busy = {running.slot.name for running in self._running.values()}
        return [slot for slot in self._slots if slot.name not in busy]

    def releasing(self) -> bool:
        """Return False: what a trial used is free when it ends."""
        return False

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Start the trial in a thread of its own."""
        running = self._running[plan.number] = _Running(slot)
        running.thread = threading.Thread(target=self._work, args=(plan, running), name=f"trial {plan.number}")
        running.thread.start()

    def _work(self, plan: TrialPlan, running: _Running) -> None:
        result = failed(plan.number, FailureKind.CRASH, "the trial's thread ended without a result")
        try:
            result = self._run_trial(plan, running.slot, self._events.put, running.stop.is_set)
        finally:
            self._events.put(result)

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds."""
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
        """Ask the trial to end at its next step."""
        if number in self._running:
            self._running[number].stop.set()

    def kill_trial(self, number: int) -> None:
        """Ask the trial to end at its next step: a thread cannot be killed."""
        self.stop_trial(number)

    def close(self) -> None:
        """Ask every trial to end, and wait for it: a thread cannot be killed."""
        for running in self._running.values():
            running.stop.set()
        for running in self._running.values():
            if running.thread:
                running.thread.join()
        self._running.clear()
        self._events = queue.SimpleQueue()
