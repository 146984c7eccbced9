"""Lets Ctrl-C, a polite kill and a closed terminal end a search without tearing its records."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


Interruptible = Callable[[], contextlib.AbstractContextManager[object]]
"""Surrounds what may be broken off by KeyboardInterrupt; outside of it an interrupt waits."""


class StopSignals:
    """Turns the signals that ask the driver to end into KeyboardInterrupt, but only where nothing can be torn."""

    def __init__(self) -> None:
        self._asked = False
        self._open = True  # until the search says otherwise

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Break off what may be broken off; otherwise at the next chance."""
        self._asked = True
        if self._open:
            self._open = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow KeyboardInterrupt inside, and no more after the first use outside."""
        self._open = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Receive the signals inside the block, and give them back to whoever had them after it."""
    stop = StopSignals()
    with _received_by(stop.receive):
        yield stop


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let the signals wait for the end of the block, where they would tear what a library starts in seconds."""
    if threading.current_thread() is not threading.main_thread():  # no signal interrupts another one
        yield
        return
    received: list[int] = []
    with _received_by(lambda number, frame: received.append(number)):
        yield
    for number in received[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def _received_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {name: signal.signal(getattr(signal, name), receive) for name in _NAMES}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
