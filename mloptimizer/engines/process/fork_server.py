"""Starts the server that trial processes are forked from, so that it hears no Ctrl-C, prints nothing, and ends with
the driver."""

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

_held: list[object] = []  # open until this process ends
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")


def start_fork_server(preload: Sequence[str]) -> None:
    """Let the fork server begin its imports, if it is not there yet; returns at once."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        guard_children()
        modules = ["mloptimizer.engines.process.fork_preload", *preload]
        multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
        _use_own_temporary_folder()
        with interrupts_ignored(), stderr_muted(), _driver_named():
            multiprocessing.forkserver.ensure_running()


def _use_own_temporary_folder() -> None:
    """Let the server's socket lie where the next driver finds it: a driver that is killed does not remove it itself."""
    if _held:
        return
    base = Path(tempfile.gettempdir()) / f"mloptimizer-{os.getuid()}"
    if len(str(base)) > _LONGEST_FOLDER:
        return  # the name of a socket cannot be longer
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return  # somebody else's: multiprocessing makes a folder by itself
    remove_left_over(base.iterdir())
    before, tempfile.tempdir = tempfile.tempdir, str(base)
    try:
        folder = Path(multiprocessing.util.get_temp_dir())
    finally:
        tempfile.tempdir = before
    with contextlib.suppress(MloptimizerError):  # without a lock, nobody takes it for left over
        if folder.parent == base:  # otherwise it was made before
            _held.append(take_lock(folder / LOCK))


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Let processes that are started here never hear Ctrl-C: the driver alone decides when they end.

    They inherit that it is blocked. Here it waits meanwhile; to ignore it would lose it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # when it starts, it unblocks what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stderr_muted() -> Iterator[None]:
    """Let this process, and those that are started here, write their errors nowhere.

    Importing TensorFlow prints lines that nothing turns off; an import that fails fails again in a trial, and is told.
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
    """Tell the fork server whom to end with; not in a thread that may end earlier, and would take the server along."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    os.environ[DRIVER] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(DRIVER, None)
