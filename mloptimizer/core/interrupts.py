"""Lets Ctrl-C, SIGTERM and a closed terminal end a search without damaging its records."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Interruptible = Callable[[], contextlib.AbstractContextManager[object]]
"""Surrounds code that KeyboardInterrupt may stop; elsewhere an interrupt waits."""


class StopSignals:
    """Turns signals that ask the driver to stop into KeyboardInterrupt, but only where it cannot damage records."""

    def __init__(self) -> None:
        self._asked = False
        self._open = True  # until the search starts

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Interrupt now if that is safe, otherwise at the next chance."""
        self._asked = True
        if self._open:
            self._open = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow KeyboardInterrupt inside the block; after its first use, nowhere else."""
        self._open = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Receive the signals inside the block, then restore their earlier handlers."""
    stop = StopSignals()
    with _received_by(stop.receive):
        yield stop


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Delay the signals to the end of the block, in which a library starts up and must not be interrupted."""
    if threading.current_thread() is not threading.main_thread():  # signals interrupt the main thread only
        yield
        return
    received: list[int] = []
    with _received_by(lambda number, frame: received.append(number)):
        yield
    for number in received[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def _received_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
