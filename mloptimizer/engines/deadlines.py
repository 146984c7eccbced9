"""Knows which running trials have given no sign of life for too long, or have trained for longer than they may."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EpochRecord, Event, HardwareSample, SignOfLife
from mloptimizer.core.nouns import Failure, FailureKind, TrialResult, failed

_BUSY_SECONDS = 5.0  # longer than any round in which a driver listens and acts


@dataclass
class _Trial:
    begun: float
    spent_seconds: float  # by earlier attempts
    heard: float
    stepped: bool = False
    held_seconds: float = 0.0  # in which nobody listened to it


class Absence:
    """Notices that the driver did not listen: it waited for a disk or a server, or was suspended, also with its trials.

    It measures real time: a container that is paused, or a job that its cluster suspends, is stopped wherever it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listened = clock()

    def seconds(self) -> float:
        """Return for how long nobody listened since the last call; 0 where the driver was only busy."""
        before, self._listened = self._listened, self._clock()
        lost = self._listened - before
        return lost if lost > _BUSY_SECONDS else 0.0


class Deadlines:
    """Follows the running trials by their events.

    Time in which the driver itself did not listen counts for nobody; see `Absence`. Rows of
    the hardware log are no signs of life: they come from a thread that watches a hanging training too. Until its
    first step, a trial has `compile_minutes` more, as it builds and compiles in silence. With engine = thread no trial
    is overdue: it may be held at a breakpoint, and nothing could end it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._trials: dict[int, _Trial] = {}

    def start(self, number: int, spent_seconds: float) -> None:
        """Begin to follow the trial, whose earlier attempts took so many seconds."""
        now = self._clock()
        self._trials[number] = _Trial(now, spent_seconds, now)

    def hear(self, event: Event) -> None:
        """Take an event of a running trial."""
        trial = self._trials.get(event.number) if event.number is not None else None
        if trial is None or isinstance(event, HardwareSample):
            return
        trial.heard = self._clock()
        trial.stepped |= isinstance(event, (SignOfLife, EpochRecord))

    def hear_all(self, events: Iterable[Event]) -> list[TrialResult]:
        """Take events; return how the trials that are to end now have failed."""
        for event in events:
            self.hear(event)
        return [failed(number, failure.kind, failure.message) for number, failure in self.find_overdue()]

    def hold(self, seconds: float) -> None:
        """Take note that until now, nobody listened to the trials for so long."""
        now = self._clock()
        for trial in self._trials.values():
            trial.heard = min(now, trial.heard + seconds)
            trial.held_seconds += min(seconds, now - trial.begun)

    def end(self, number: int) -> float:
        """Forget the trial; return how many seconds this attempt took, while somebody listened to it."""
        trial = self._trials.pop(number)
        return self._clock() - trial.begun - trial.held_seconds

    def find_overdue(self) -> list[tuple[int, Failure]]:
        """Return the trials that are to end now, each with its failure: hung or time_limit."""
        now = self._clock()
        found = ((number, self._judge(trial, now)) for number, trial in self._trials.items())
        return [(number, failure) for number, failure in found if failure]

    def _judge(self, trial: _Trial, now: float) -> Failure | None:
        settings = self._settings
        if settings.engine == "thread":
            return None
        minutes = settings.hang_minutes + (0 if trial.stepped else settings.compile_minutes)
        if now - trial.heard > 60 * minutes:
            names = "hang_minutes" if trial.stepped else "hang_minutes + compile_minutes, before the first step"
            return Failure(FailureKind.HUNG, f"no sign of life for {minutes:g} minutes ({names})")
        trained = trial.spent_seconds + now - trial.begun - trial.held_seconds
        if settings.trial_minutes and trained > 60 * settings.trial_minutes:
            message = f"it has trained for {settings.trial_minutes:g} minutes (trial_minutes)"
            return Failure(FailureKind.TIME_LIMIT, message)
        return None
