"""Counts and ranks the trials of one phase as they end, so that nobody has to look at all of them."""

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from mloptimizer.core.nouns import Outcome, Phase
from mloptimizer.study.history import History
from mloptimizer.study.trials import TrialStatus, TrialSummary, summarize


class Tally:
    """The outcomes of a phase's trials that count as done, as a list would have them, always up to date."""

    def __init__(self, history: History, phase: Phase, maximizes: bool) -> None:
        self._history, self._phase = history, phase
        self._sign = -1.0 if maximizes else 1.0
        self._read = 0  # of the history's ended trials
        self._outcomes: Counter[Outcome] = Counter()
        self._done: list[int] = []  # their Optuna numbers, sorted
        self._ranked: list[tuple[float, int, FrozenTrial]] = []  # completed trials with loss and number, the best first

    def __len__(self) -> int:
        self._catch_up()
        return len(self._done)

    def count(self, outcome: Outcome) -> int:
        self._catch_up()
        return self._outcomes[outcome]

    def best(self, n: int) -> list[TrialSummary]:
        """Return at most n completed trials, the best first, then by number; without reused results."""
        self._catch_up()
        return [summarize(trial, self._phase) for _, _, trial in self._ranked[:n]]

    def count_since_best(self) -> int:
        """Return how many trials are done that were proposed after the best one."""
        self._catch_up()
        if not self._ranked:
            return len(self._done)
        return len(self._done) - bisect_right(self._done, self._ranked[0][2].number)

    def _catch_up(self) -> None:
        for trial in self._history.ended[self._read :]:
            summary = summarize(trial, self._phase)
            if summary.outcome is None:
                continue
            self._outcomes[summary.outcome] += 1
            insort(self._done, trial.number)
            if summary.status is TrialStatus.COMPLETED and summary.reused_from is None:
                row = (self._sign * (summary.value or 0.0), summary.number, trial)
                insort(self._ranked, row, key=lambda row: row[:2])
        self._read = len(self._history.ended)


Ended = Tally | Sequence[Outcome]
"""Outcomes of trials: `len` and `count` work for both."""
