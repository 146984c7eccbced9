"""Connects a training to the hardware log: the training states what it is doing, and the monitor reads that any time.

Guarantees: neither waits for the other. Every moment counts for one part; of nested parts, for the innermost.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mloptimizer.hardware.columns import PARTS, Cell

FindSteps = Callable[[], tuple[int, float]]  # finished training steps, and the seconds that they waited for images


@dataclass(frozen=True)
class Followed:
    """A model whose training steps are counted."""

    global_batch: int
    find_steps: FindSteps
    start: tuple[int, float]  # steps and seconds waited before


class TrainingClock:
    """What a training does and has done; written by its thread, read by the monitor's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting; `clock` gives seconds from any origin, the same as the reader's."""
        self.epoch = 0
        self.followed = Followed(0, lambda: (0, 0.0), (0, 0.0))
        self._clock = clock
        self._now: tuple[str, float, dict[str, float]] = ("", clock(), dict.fromkeys(PARTS, 0.0))

    def follow(self, global_batch: int, find_steps: FindSteps) -> None:
        """Count training steps from now on; steps before, restored from a checkpoint, do not count."""
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
        """Count the time from now on for the part ("": none of `PARTS`); return the previous one."""
        before, since, spent = self._now
        now = self._clock()
        if before:
            spent = {**spent, before: spent[before] + now - since}
        self._now = (part, now, spent)  # one assignment: the other thread sees the old or the new state
        return before

    def spent(self) -> tuple[str, dict[str, float]]:
        """Return the current part, and the seconds by part until now."""
        part, since, spent = self._now
        return part, {**spent, part: spent[part] + self._clock() - since} if part else dict(spent)


class TrainingReader:
    """Reads a row's cells about the training."""

    def __init__(self, training: TrainingClock, now: float) -> None:
        """Start counting; `now` is in seconds from the origin of the log's clock."""
        self._training = training
        self._then = now
        self._followed = training.followed
        self._before = self._followed.start
        self._images, self._waited = 0, 0.0  # since the log began

    def read(self, now: float) -> list[Cell]:
        """Return the cells in the order of `TRAINING_COLUMNS`; the search fills in the last two."""
        part, spent = self._training.spent()
        followed = self._training.followed
        if followed is not self._followed:
            self._followed, self._before = followed, followed.start
        steps, waited = followed.find_steps()
        seconds = max(now - self._then, 1e-9)
        images, wait = (steps - self._before[0]) * followed.global_batch, waited - self._before[1]
        self._then, self._before = now, (steps, waited)
        self._images += images
        self._waited += wait
        rates: list[Cell] = [images / seconds, min(100 * wait / seconds, 100.0), self._images, self._waited]
        return [part or None, self._training.epoch, steps, *rates, *spent.values(), None, None]
