"""Makes the search wait while a disk is full or a server is away, and tells the person when that begins and ends."""

import time
from collections.abc import Callable

from mloptimizer.core.errors import RunError
from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.listener import Listener
from mloptimizer.search.budgets import Budgets

_WAIT_SECONDS = 0.5  # between two tries


class Waiting:
    """A `files.Wait` of one run of a search; it waits no longer than the run's budgets allow."""

    def __init__(
        self,
        budgets: Budgets,
        listeners: Listener,
        interruptible: Interruptible,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._budgets, self._listeners, self._interruptible = budgets, listeners, interruptible
        self._clock, self._sleep = clock, sleep
        self._since: float | None = None  # None: nothing is waited for

    def __call__(self, problem: str) -> None:
        """Return after a moment, in which the problem may have passed.

        Raises:
            KeyboardInterrupt: the person does not want to wait.
            RunError: the run has used up a budget.
        """
        with self._interruptible():
            pass
        if self._since is None:
            self._since = self._clock()
            self._listeners.notice(f"{problem}. The search waits, and continues when it can. Ctrl-C ends it.")
        if stop := self._budgets.find_stop():
            raise RunError(f"{problem}, and {stop.reason}. Everything recorded so far is kept.")
        with self._interruptible():
            self._sleep(_WAIT_SECONDS)

    def look(self) -> str:
        """Return a line for the person if the search has waited since the last look: the problem has passed."""
        if self._since is None:
            return ""
        seconds, self._since = self._clock() - self._since, None
        return f"The search continues, after {max(seconds, 1):.0f} s of waiting."
