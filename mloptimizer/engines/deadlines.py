"""Finds running trials that have shown no sign of life for too long, or have exceeded their time limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EpochRecord, Event, HardwareSample, SignOfLife
from mloptimizer.core.nouns import Failure, FailureKind

_BUSY_SECONDS = 5.0  # longer than any round in which a driver listens and acts


@dataclass
class _Trial:
    started: float
    spent_seconds: float  # by earlier attempts
    heard: float
    stepped: bool = False
    held_seconds: float = 0.0  # during which nobody listened


class Absence:
    """Notices when the driver was not listening: it waited for a disk or a server, or was suspended with its trials.

    It measures real time: a paused container, or a job that its cluster suspends, stops at an arbitrary point.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listened = clock()

    def seconds(self) -> float:
        """Return how long nobody has listened since the last call; 0 if the driver was merely busy."""
        before, self._listened = self._listened, self._clock()
        lost = self._listened - before
        return lost if lost > _BUSY_SECONDS else 0.0


class Deadlines:
    """Follows the running trials through their events.

    Time during which the driver was not listening counts against no trial; see `Absence`. Rows of the hardware log are
    not signs of life: they come from a thread that also watches a hanging training. Until its first step, a trial gets
    `compile_minutes` more, because it builds and compiles in silence. With engine = thread no trial is overdue: it may
    be held at a breakpoint, and nothing could end it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._trials: dict[int, _Trial] = {}

    def start(self, number: int, spent_seconds: float) -> None:
        """Begin to follow the trial; its earlier attempts took `spent_seconds`."""
        now = self._clock()
        self._trials[number] = _Trial(now, spent_seconds, now)

    def hear(self, event: Event) -> None:
        """Take an event of a running trial."""
        trial = self._trials.get(event.number) if event.number is not None else None
        if trial and not isinstance(event, HardwareSample):
            trial.heard = self._clock()
            trial.stepped |= isinstance(event, (SignOfLife, EpochRecord))

    def hold(self, seconds: float) -> None:
        """Record that nobody listened to the trials for the last `seconds`."""
        now = self._clock()
        for trial in self._trials.values():
            trial.heard = min(now, trial.heard + seconds)
            trial.held_seconds += min(seconds, now - trial.started)

    def end(self, number: int) -> float:
        """Forget the trial; return how many seconds this attempt took, counting only time when somebody listened."""
        trial = self._trials.pop(number)
        return self._clock() - trial.started - trial.held_seconds

    def find_overdue(self) -> list[tuple[int, Failure]]:
        """Return the trials that must end now, each with its failure: hung or time_limit."""
        now = self._clock()
        return [(number, failure) for number, trial in self._trials.items() if (failure := self._judge(trial, now))]

    def _judge(self, trial: _Trial, now: float) -> Failure | None:
        settings = self._settings
        if settings.engine == "thread":
            return None
        minutes = settings.hang_minutes + (0 if trial.stepped else settings.compile_minutes)
        if now - trial.heard > 60 * minutes:
            names = "hang_minutes" if trial.stepped else "hang_minutes + compile_minutes, before the first step"
            return Failure(FailureKind.HUNG, f"no sign of life for {minutes:g} minutes ({names})")
        trained = trial.spent_seconds + now - trial.started - trial.held_seconds
        if settings.trial_minutes and trained > 60 * settings.trial_minutes:
            return Failure(FailureKind.TIME_LIMIT, f"trained for {settings.trial_minutes:g} minutes (trial_minutes)")
        return None
