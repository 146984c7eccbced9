"""Knows what a run of a search is told meanwhile: by orders from other terminals, by its budgets, by the disk, and by
trials that all fail in the same way."""

import contextlib
from collections.abc import Callable, Iterator

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import FailureKind, TrialPlan, TrialResult
from mloptimizer.search.budgets import Budgets, Stop, find_target_stop
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.failing_start import FIRST_TRIALS, FailingStart
from mloptimizer.search.job import Job
from mloptimizer.store.orders import Order, OrderName, take_orders


class Control:
    """What one run of a search is told; its phases share it."""

    def __init__(self, job: Job, budgets: Budgets, disk: DiskWatch, has_waited: Callable[[], str] = str) -> None:
        """Watch for orders in the study's folder.

        Args:
            has_waited: returns a line when a trouble that held the run up has passed, otherwise nothing.
        """
        self.stop: Stop | None = None
        self.paused = False
        self.stagnant = False  # the exploration ended early
        self.budgets = budgets
        self._job, self._disk, self._has_waited = job, disk, has_waited
        self._orders = job.workspace.orders(job.name)
        self._start = FailingStart()

    @property
    def disk_is_low(self) -> bool:
        """Whether the disk has too little room to start a trial."""
        return self._disk.low

    def look(self, best: tuple[int, float] | None) -> list[str]:
        """Look at everything; return what is new, in lines for the person.

        Args:
            best: number and value of the phase's best trial.
        """
        lines = [line for order in take_orders(self._orders) if (line := self._obey(order))]
        lines += [line for line in (self._has_waited(), self._disk.look()) if line]
        if self.stop is None:
            self.stop = self.budgets.find_stop() or find_target_stop(self._job.settings, best)
            if self.stop:
                lines.append(f"The search stops: {self.stop.reason}.")
        return lines

    def _obey(self, order: Order) -> str:
        if order.name is OrderName.STOP:
            self.stop = self.stop or Stop("it was told to")
            return "Told to stop: what runs goes on when the study is continued."
        if order.name is OrderName.ADD_TRIALS:
            self._job.goal.raise_by(order.trials)
            self._job.store.remember_trials(self._job.goal.trials)
            return f"Told to explore {order.trials} more: {self._job.goal.trials} models in all."
        was, self.paused = self.paused, order.name is OrderName.PAUSE
        if self.paused == was:
            return ""
        if not self.paused:
            return "Told to go on."
        return f"Told to pause: running trials make way. Continue with: mloptimizer resume {self._job.name}"

    @contextlib.contextmanager
    def past_its_stop(self) -> Iterator[None]:
        """Let a phase run inside though the run was to stop, until it is told so anew."""
        before, self.stop = self.stop, None
        try:
            yield
        finally:
            self.stop = self.stop or before

    def note_full_disk(self) -> None:
        """Take note that a trial found the disk full: none starts until there is more room than it had."""
        self._disk.note_full()

    def note_stagnation(self) -> None:
        """Take note that the exploration ends early."""
        self.stagnant = True

    def judge(self, plan: TrialPlan, result: TrialResult, epochs: int = 0) -> None:
        """Take a trial's end, after so many epochs.

        Raises:
            UsageError, RunError: the first three trials of this run all failed alike, by their search space or not.
        """
        failure = result.failure
        if not self._start.judge(failure, epochs) or failure is None:
            return
        is_the_spaces = failure.kind is FailureKind.SPACE_ERROR
        what = "the space" if is_the_spaces else "the cause"
        raise (UsageError if is_the_spaces else RunError)(
            f"{failure.message.rstrip('.')}. The first {FIRST_TRIALS} trials all failed so, and the search ended. "
            f"See: mloptimizer show {plan.study} {plan.number}. Fix {what}, then: mloptimizer resume {plan.study}."
        )
