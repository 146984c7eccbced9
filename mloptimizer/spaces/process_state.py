"""Puts back what the code of a search space changes in the process that runs it.

A person's code may change the folder, close the output or set a signal's handler, and all that runs after it relies on
them. What it does to files, other processes and libraries cannot be put back.
"""

import contextlib
import locale
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

Guarded = tuple[Callable[[], Any], Callable[[Any], object]]
"""Reads a value, and sets it again."""

_OUTPUTS = ("stdout", "stderr")
_ENVIRONMENT: MutableMapping[Any, Any] = getattr(os, "environb", os.environ)  # bytes are read faster
_SIGNALS = [getattr(signal, f"SIG{name}", None) for name in ("INT", "TERM", "HUP", "CHLD", "PIPE", "ALRM")]


def _keep(owner: Any, name: str) -> Guarded:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _keep_list(owner: Any, name: str) -> Guarded:
    def write(before: tuple[list[Any], list[Any]]) -> None:
        before[0][:] = before[1]
        setattr(owner, name, before[0])

    return lambda: (getattr(owner, name), list(getattr(owner, name))), write


def _keep_signal(number: signal.Signals) -> Guarded:
    def write(handler: Any) -> None:
        if handler is not None:  # else it was not set by Python
            signal.signal(number, handler)

    return lambda: signal.getsignal(number), write


def _is_timer_on() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _set_environment(before: dict[Any, Any]) -> None:
    for name in _ENVIRONMENT.keys() - before.keys():
        del _ENVIRONMENT[name]
    _ENVIRONMENT.update(before)


_KEPT: tuple[Guarded, ...] = (
    (os.getcwd, os.chdir),
    (lambda: dict(_ENVIRONMENT), _set_environment),
    *(_keep(sys, name) for name in (*_OUTPUTS, "excepthook")),
    _keep(tempfile, "tempdir"),
    *(_keep_list(sys, name) for name in ("path", "argv", "meta_path")),
    (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (sys.getrecursionlimit, sys.setrecursionlimit),
)
_KEPT_OF_THE_MAIN_THREAD: tuple[Guarded, ...] = (
    (_is_timer_on, lambda was_on: was_on or signal.setitimer(signal.ITIMER_REAL, 0)),
    *(_keep_signal(number) for number in _SIGNALS if number),
)


class _Unclosable:
    """A stream that whoever it is lent to cannot close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        self._stream.flush()

    def __enter__(self) -> "_Unclosable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def process_kept(more: Sequence[Guarded] = ()) -> Iterator[None]:
    """Put back, after the block, what it has changed of the process, and the values that `more` keeps."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a signal's handler
    kept = []
    for read, write in (*_KEPT, *(_KEPT_OF_THE_MAIN_THREAD if is_main else ()), *more):
        with contextlib.suppress(OSError):  # the current folder is gone
            kept.append((read, write, read()))
    for name in _OUTPUTS:
        if stream := getattr(sys, name):
            setattr(sys, name, _Unclosable(stream))
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for read, write, before in kept:
            with contextlib.suppress(OSError):
                if _read(read) != before:
                    write(before)


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError:  # the current folder is gone, and the one before may be there
        return None
