"""Knows what should stop, pause or extend a running search: orders from other terminals, budgets, a disk that runs
low, and first trials that all fail alike."""

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
    """Whether one run of a search stops or pauses; its phases share it."""

    def __init__(self, job: Job, budgets: Budgets, disk: DiskWatch, has_waited: Callable[[], str] = str) -> None:
        """Watch the study's folder for orders.

        Args:
            has_waited: returns a line when a problem that held up the run has passed, otherwise nothing.
        """
        self.stop: Stop | None = None
        self.paused = False
        self.stagnant = False  # the exploration ended early
        self.budgets, self.disk = budgets, disk
        self._job, self._has_waited = job, has_waited
        self._orders = job.workspace.orders(job.name)
        self._start = FailingStart()

    def look(self, best: tuple[int, float] | None) -> list[str]:
        """Look at everything; return what is new, in lines for the person.

        Args:
            best: number and value of the phase's best trial.
        """
        lines = [self._obey(order) for order in take_orders(self._orders)]
        lines += [self._has_waited(), self.disk.look()]
        if self.stop is None:
            self.stop = self.budgets.find_stop() or find_target_stop(self._job.settings, best)
            if self.stop:
                lines.append(f"The search stops: {self.stop.reason}.")
        return [line for line in lines if line]

    def _obey(self, order: Order) -> str:
        if order.name is OrderName.STOP:
            self.stop = self.stop or Stop("you asked it to stop")
            return "Stopping, as you asked. Running trials continue when the study is resumed."
        if order.name is OrderName.ADD_TRIALS:
            self._job.goal.trials += order.trials
            self._job.store.remember_trials(self._job.goal.trials)
            return f"Exploring {order.trials} more models, as you asked: {self._job.goal.trials} in all."
        was, self.paused = self.paused, order.name is OrderName.PAUSE
        if self.paused == was:
            return ""
        if not self.paused:
            return "Resuming, as you asked."
        return f"Pausing, as you asked. Running trials continue after: mloptimizer resume {self._job.name}"

    @contextlib.contextmanager
    def past_its_stop(self) -> Iterator[None]:
        """Let a phase run inside although the run was to stop, until it is asked to stop again."""
        before, self.stop = self.stop, None
        try:
            yield
        finally:
            self.stop = self.stop or before

    def judge(self, plan: TrialPlan, result: TrialResult, epochs: int = 0) -> None:
        """Note a trial that ended after so many epochs.

        Raises:
            UsageError, RunError: the first three trials of this run all failed alike, by their search space or not.
        """
        failure = result.failure
        if not self._start.judge(failure, epochs) or failure is None:
            return
        is_the_spaces = failure.kind is FailureKind.SPACE_ERROR
        raise (UsageError if is_the_spaces else RunError)(
            f"{failure.message.rstrip('.')}. The first {FIRST_TRIALS} trials all failed alike, so the search ended. "
            f"See: mloptimizer show {plan.study} {plan.number}. Fix {'the space' if is_the_spaces else 'the cause'}, "
            f"then: mloptimizer resume {plan.study}."
        )
