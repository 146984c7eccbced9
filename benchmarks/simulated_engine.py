"""An engine whose workers train nothing: their reports come when real workers would send them.

Its clock jumps over the time in which the driver waits, and runs while the driver works, so slots that wait for a
decision lose that time, as in a real search.
"""

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mloptimizer.core.events import EpochRecord, Event, HardwareSample
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed

STOP_SECONDS = 0.3  # from the request to stop to the result
FAULTS = (FailureKind.CRASH, FailureKind.OUT_OF_MEMORY, FailureKind.LOST_WORKER)

Judge = Callable[[TrialPlan], float]
"""Returns the objective that the trial would reach at its last epoch."""


class Clock:
    """Seconds that pass while the driver works, and are skipped while it waits."""

    def __init__(self, driver: str) -> None:
        """Set how the driver's work counts.

        Args:
            driver: `wall` time; `cpu` time, for a machine that other programs keep busy, without waiting for the disk;
                or `none`, which makes the search the same on every machine.
        """
        self._driver = {"wall": time.perf_counter, "cpu": time.process_time, "none": float}[driver]
        self._skipped = 0.0

    def driver_seconds(self) -> float:
        """Return the driver's own time, from any origin."""
        return self._driver()

    def __call__(self) -> float:
        return self._skipped + self._driver()

    def skip_to(self, moment: float) -> None:
        """Skip the time until then."""
        self._skipped += max(moment - self(), 0.0)


@dataclass(frozen=True)
class Workload:
    """What trials are like."""

    judge: Judge
    trial_seconds: float = 10.0  # of a whole trial, on average; single ones take 0.7 to 1.3 times as long
    row_seconds: float = 1.0  # between two rows of the hardware log; 0: none
    fault_share: float = 0.0  # of attempts
    noise: float = 0.01  # of the objective


class SimulatedEngine:
    """Runs one simulated trial at a time on each of its slots."""

    def __init__(self, slots: Sequence[Slot], clock: Clock, workload: Workload, interrupt_after: int = 0) -> None:
        """Args: interrupt_after: number of results after which the driver is interrupted; 0: never."""
        self.spans: list[tuple[float, float]] = []  # from the start of a trial until its result was due
        self.filled_at = self.last_start = clock()  # when the last idle slot got its first trial; the last start
        self._was_filled = False
        self.most_duplicates = 0  # running trials with the same parameters
        self._clock, self._workload, self._interrupt_after = clock, workload, interrupt_after
        self._idle = {slot.name: slot for slot in slots}
        self._running: dict[int, tuple[TrialPlan, Slot, float]] = {}
        self._queue: list[tuple[float, int, int, int, Event]] = []  # when, order, trial, attempt
        self._order = itertools.count()
        self._results = 0

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots without a trial."""
        return list(self._idle.values())

    def releasing(self) -> bool:
        """Return False: a slot is free at once."""
        return False

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Plan what the trial reports, and when."""
        now, work = self._clock(), self._workload
        del self._idle[slot.name]
        duplicates = [
            other for other, _, _ in self._running.values() if (other.space, other.params) == (plan.space, plan.params)
        ]
        self.most_duplicates = max(self.most_duplicates, len(duplicates))
        self._running[plan.number] = (plan, slot, now)
        self.last_start = now
        if not self._was_filled:
            self.filled_at, self._was_filled = now, not self._idle
        chance = random.Random(f"{plan.seed} {plan.attempt}")
        lasts = work.trial_seconds * random.Random(plan.seed).uniform(0.7, 1.3) / plan.epochs
        first = plan.recorded_epochs + 1
        curve = draw_curve(plan, work)
        ends = now + lasts * (plan.epochs - first + 1)
        fault = ends - chance.uniform(0.0, ends - now) if chance.random() < work.fault_share else math.inf
        for epoch in range(first, plan.epochs + 1):
            record = EpochRecord(
                plan.number, epoch, {"val_accuracy": curve[epoch - 1], "loss": -curve[epoch - 1]}, lasts
            )
            self._plan(now + lasts * (epoch - first + 1), plan, record, until=fault)
        for row in range(int((ends - now) / work.row_seconds) if work.row_seconds else 0):
            sample = HardwareSample(plan.number, {"time_utc": "", "seconds": row * work.row_seconds})
            self._plan(now + row * work.row_seconds, plan, sample, until=fault)
        if fault < ends:
            kind = chance.choice(FAULTS[: 1 if plan.attempt > 1 else len(FAULTS)])
            self._plan(fault, plan, failed(plan.number, kind, "simulated", fault - now))
        else:
            value = curve[-1]
            result = TrialResult(plan.number, Outcome.COMPLETED, value, ends - now, {"val_accuracy": value})
            self._plan(ends, plan, result)

    def _plan(self, moment: float, plan: TrialPlan, event: Event, until: float = math.inf) -> None:
        if moment <= until:
            heapq.heappush(self._queue, (moment, next(self._order), plan.number, plan.attempt, event))

    def wait(self, timeout: float) -> list[Event]:
        """Return the events that are due; if none are, jump to the next one first."""
        if self._interrupt_after and self._results >= self._interrupt_after:
            raise KeyboardInterrupt
        limit = self._clock() + timeout
        self._drop_outdated()
        self._clock.skip_to(min(self._queue[0][0] if self._queue else limit, limit))
        events: list[Event] = []
        now = self._clock()
        while self._queue and self._queue[0][0] <= now:
            moment, _, number, attempt, event = heapq.heappop(self._queue)
            plan, slot, started = self._running.get(number, (None, None, 0.0))
            if plan is None or slot is None or plan.attempt != attempt:
                continue
            if isinstance(event, TrialResult):
                del self._running[number]
                self._idle[slot.name] = slot
                self.spans.append((started, moment))  # the slot is idle from then on
                self._results += 1
            events.append(event)
        return events

    def _drop_outdated(self) -> None:
        while self._queue:
            _, _, number, attempt, _ = self._queue[0]
            if number in self._running and self._running[number][0].attempt == attempt:
                return
            heapq.heappop(self._queue)

    def stop_trial(self, number: int) -> None:
        """End the trial soon, as pruned."""
        if number in self._running:
            plan, _, started = self._running[number]
            moment = self._clock() + STOP_SECONDS
            self._plan(moment, plan, TrialResult(number, Outcome.PRUNED, None, moment - started))

    def kill_trial(self, number: int) -> None:
        """End the trial as crashed."""
        if number in self._running:
            plan, _, started = self._running[number]
            now = self._clock()
            self._plan(now, plan, failed(number, FailureKind.CRASH, "killed", now - started))

    def close(self) -> None:
        """Forget all trials."""
        now = self._clock()
        self.spans += [(started, now) for _, _, started in self._running.values()]
        self._running.clear()
        self._queue.clear()


def draw_curve(plan: TrialPlan, work: Workload) -> list[float]:
    """Return the objective after each epoch: it approaches the final value, at a pace of its own."""
    chance = random.Random(f"{plan.seed} curve")
    pace, final = chance.uniform(0.3, 0.6), work.judge(plan)
    return [final - 0.5 * pace**epoch + chance.gauss(0, work.noise) for epoch in range(1, plan.epochs + 1)]
