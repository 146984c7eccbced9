"""Joins a training to the hardware log: it says what it does, and the monitor reads that at any time.

Guarantees: neither waits for the other. Every moment counts for one part: of parts within parts, for the innermost.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mloptimizer.hardware.columns import PARTS, Cell

_ELSE = ""  # the part in which nothing of PARTS is done


FindSteps = Callable[[], tuple[int, float]]
"""Returns how many training steps are made, and the seconds that they waited for images."""


@dataclass(frozen=True)
class Followed:
    """A model whose training steps are counted."""

    global_batch: int
    find_steps: FindSteps
    start: tuple[int, float]  # what was made, and waited, before


class TrainingClock:
    """What a training does and has done; written by its thread, read by the monitor's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count; `clock` gives seconds from any origin, the same as the reader's."""
        self.epoch = 0
        self.followed = Followed(0, lambda: (0, 0.0), (0, 0.0))
        self._clock = clock
        self._now: tuple[str, float, dict[str, float]] = (_ELSE, clock(), dict.fromkeys(PARTS, 0.0))

    def follow(self, global_batch: int, find_steps: FindSteps) -> None:
        """Count the training steps from now on; those that were made before, by a checkpoint, do not count."""
        self.followed = Followed(global_batch, find_steps, find_steps())

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the time until the end of the block for the part."""
        before = self.enter(part)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, part: str) -> str:
        """Count the time from now on for the part; return the one before."""
        before, since, spent = self._now
        now = self._clock()
        if before:
            spent = {**spent, before: spent[before] + now - since}
        self._now = (part, now, spent)  # in one piece: the other thread sees the old or the new
        return before

    def spent(self) -> tuple[str, dict[str, float]]:
        """Return the part that is under way, and the seconds by part until now."""
        part, since, spent = self._now
        return part, {**spent, part: spent[part] + self._clock() - since} if part else dict(spent)


class TrainingReader:
    """Reads a training's cells of a row."""

    def __init__(self, training: TrainingClock, now: float) -> None:
        """Begin to count; `now` is in seconds from the origin of the log's clock."""
        self._training = training
        self._then = now
        self._followed = training.followed
        self._before = self._followed.start
        self._images, self._waited = 0, 0.0  # since the log began

    def read(self, now: float) -> list[Cell]:
        """Return the cells in the order of `TRAINING_COLUMNS`; the search fills in the last."""
        training = self._training
        part, spent = training.spent()
        followed = training.followed
        if followed is not self._followed:
            self._followed, self._before = followed, followed.start
        steps, waited = followed.find_steps()
        seconds = max(now - self._then, 1e-9)
        images, wait = (steps - self._before[0]) * followed.global_batch, waited - self._before[1]
        self._then, self._before = now, (steps, waited)
        self._images += images
        self._waited += wait
        share = min(100 * wait / seconds, 100.0)
        rates: list[Cell] = [images / seconds, share, self._images, self._waited]
        return [part or None, training.epoch, steps, *rates, *spent.values(), None, None]
