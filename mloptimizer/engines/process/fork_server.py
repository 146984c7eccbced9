"""Starts the server from which trials are forked: it ignores Ctrl-C, prints nothing, and ends with the driver."""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.import_path import guard_children
from mloptimizer.core.locks import take_lock
from mloptimizer.engines.process.left_over import LOCK, remove_left_over
from mloptimizer.engines.process.lifeline import DRIVER

_held: list[object] = []  # locks, until this process ends
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")


def start_fork_server(preload: Sequence[str]) -> None:
    """Let the fork server begin its imports, unless it is running already; returns at once."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        guard_children()
        modules = ["mloptimizer.engines.process.fork_preload", *preload]
        multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
        _use_own_temporary_folder()
        with interrupts_ignored(), stderr_muted(), _driver_named():
            multiprocessing.forkserver.ensure_running()


def _use_own_temporary_folder() -> None:
    """Put the server's socket where the next driver finds it, as a driver that is killed cannot remove it itself."""
    base = Path(tempfile.gettempdir()) / f"mloptimizer-{os.getuid()}"
    if _held or len(str(base)) > _LONGEST_FOLDER:  # done already; or the socket's name would be too long
        return
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return  # somebody else's: multiprocessing makes a folder of its own
    remove_left_over(base.iterdir())
    before, tempfile.tempdir = tempfile.tempdir, str(base)
    try:
        folder = Path(multiprocessing.util.get_temp_dir())
    finally:
        tempfile.tempdir = before
    with contextlib.suppress(MloptimizerError):  # without a lock, it is never taken for left over
        if folder.parent == base:  # otherwise it was made earlier
            _held.append(take_lock(folder / LOCK))


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Start processes that never receive Ctrl-C: the driver alone decides when they end.

    They inherit the blocked signal. In this process it stays pending; ignoring it would lose it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # on its start it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stderr_muted() -> Iterator[None]:
    """Discard what this process, and those started within the block, write to standard error.

    Importing TensorFlow prints lines that nothing turns off; a failing import fails again in a trial, which reports it.
    """
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@contextlib.contextmanager
def _driver_named() -> Iterator[None]:
    """Tell the fork server with whom to end, but not from a thread that may end earlier and take the server along."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        os.environ[DRIVER] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(DRIVER, None)
