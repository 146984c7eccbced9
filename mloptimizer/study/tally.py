"""Counts and ranks the trials of one phase as they end, so that nobody has to look at all of them for it."""

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from mloptimizer.core.nouns import Outcome, Phase
from mloptimizer.study.history import History
from mloptimizer.study.trials import TrialStatus, TrialSummary, summarize


class Tally:
    """How the trials of a phase have ended that count as done; like a list of their outcomes, and always up to date."""

    def __init__(self, history: History, phase: Phase, maximizes: bool) -> None:
        self._history, self._phase = history, phase
        self._sign = -1.0 if maximizes else 1.0
        self._read = 0  # of the history's ended trials
        self._outcomes: Counter[Outcome] = Counter()
        self._done: list[int] = []  # their numbers in Optuna, in order
        self._ranked: list[tuple[float, int, FrozenTrial]] = []  # of completed ones: loss, number; the best first

    def __len__(self) -> int:
        self._catch_up()
        return len(self._done)

    def count(self, outcome: Outcome) -> int:
        """Return how many ended so."""
        self._catch_up()
        return self._outcomes[outcome]

    def best(self, n: int) -> list[TrialSummary]:
        """Return at most n completed trials, the best first; of equals the lower number; reused ones are left out."""
        self._catch_up()
        return [summarize(trial, self._phase) for _, _, trial in self._ranked[:n]]

    def count_since_best(self) -> int:
        """Return how many trials that were proposed after the best one are done."""
        self._catch_up()
        if not self._ranked:
            return len(self._done)
        return len(self._done) - bisect_right(self._done, self._ranked[0][2].number)

    def _catch_up(self) -> None:
        for trial in self._history.ended[self._read :]:
            self._add(trial)
        self._read = len(self._history.ended)

    def _add(self, trial: FrozenTrial) -> None:
        summary = summarize(trial, self._phase)
        if summary.outcome is None:
            return
        self._outcomes[summary.outcome] += 1
        insort(self._done, trial.number)
        if summary.status is TrialStatus.COMPLETED and summary.reused_from is None:
            row = (self._sign * (summary.value or 0.0), summary.number, trial)
            insort(self._ranked, row, key=lambda row: row[:2])


Ended = Tally | Sequence[Outcome]
"""How trials ended: how many there are, and how many ended so."""
