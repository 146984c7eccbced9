"""Restores the state of the process after the code of a search space has run in it.

A person's code may change the current folder, close the output or set a signal handler, and the rest of the program
relies on them. Changes to files, other processes and libraries cannot be undone.
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Guarded = tuple[Callable[[], Any], Callable[[Any], object]]
"""Reads a value, and sets it again."""

_OUTPUTS = ("stdout", "stderr")
_ENVIRONMENT: Any = getattr(os, "environb", os.environ)
_RAW_ENVIRONMENT = _ENVIRONMENT._data  # Decoding every name and value would take longer than all the rest, per sample.
_SIGNALS = [getattr(signal, f"SIG{name}", None) for name in ("INT", "TERM", "HUP", "CHLD", "PIPE", "ALRM")]


def _attribute(owner: Any, name: str) -> Guarded:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _list(owner: Any, name: str) -> Guarded:
    def write(before: tuple[list[Any], list[Any]]) -> None:
        before[0][:] = before[1]
        setattr(owner, name, before[0])

    return lambda: (getattr(owner, name), list(getattr(owner, name))), write


def _handler(number: signal.Signals) -> Guarded:  # None: Python did not set it
    return lambda: signal.getsignal(number), lambda handler: handler is None or signal.signal(number, handler)


def _read_folder() -> str | None:
    with contextlib.suppress(OSError):
        return os.getcwd()  # noqa: PTH109 (Path.cwd takes ten times as long)
    return None  # it was deleted


def _set_folder(before: str | None) -> None:
    if before is not None:
        with contextlib.suppress(OSError):
            os.chdir(before)


def _set_environment(before: dict[Any, Any]) -> None:
    for name in _ENVIRONMENT.keys() - before.keys():
        del _ENVIRONMENT[name]
    _ENVIRONMENT.update(before)


_GUARDED: tuple[Guarded, ...] = (
    (_read_folder, _set_folder),
    (lambda: dict(_RAW_ENVIRONMENT), _set_environment),
    *(_attribute(sys, name) for name in (*_OUTPUTS, "excepthook")),
    _attribute(tempfile, "tempdir"),
    *(_list(sys, name) for name in ("path", "argv", "meta_path")),
    (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (sys.getrecursionlimit, sys.setrecursionlimit),
)
_GUARDED_IN_MAIN_THREAD: tuple[Guarded, ...] = (  # no other thread may set a signal handler
    (lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, lambda on: on or signal.setitimer(signal.ITIMER_REAL, 0)),
    *(_handler(number) for number in _SIGNALS if number),
)


class _Unclosable:
    """A stream that its borrower cannot close."""

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
    """Restore the state of the process after the block, and the values that `more` reads."""
    is_main = threading.current_thread() is threading.main_thread()
    guarded = (*_GUARDED, *(_GUARDED_IN_MAIN_THREAD if is_main else ()), *more)
    kept = [(read, write, read()) for read, write in guarded]
    for name in _OUTPUTS:
        if stream := getattr(sys, name):
            setattr(sys, name, _Unclosable(stream))
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for read, write, before in kept:
            if read() != before:
                write(before)
