"""Lets a process end when the driver is gone, even if it is stuck where no Python code runs.

The Linux kernel does it, at once and also to a stopped process. Elsewhere workers rely on a thread of their own, and
the fork server on its loop.
"""

import contextlib
import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import NoReturn

import psutil

DRIVER = "MLOPTIMIZER_DRIVER"  # environment variable: number of the process with which the fork server ends
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def lead_group() -> None:
    """Make this process the leader of a group, to which its children will belong, so that one call can end them all."""
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)


def end_with_writer(lifeline: Connection) -> None:
    """Let the kernel kill this process and its group when nobody can write into the pipe any more.

    Args:
        lifeline: the only reading end of a pipe; it must stay open.
    """
    if sys.platform == "linux":
        import fcntl

        pipe = lifeline.fileno()
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpid() if _leads_group() else os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | fcntl.FASYNC)
    if lifeline.poll():  # it was closed before the kernel was asked
        end_group()


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process, but no process forked from it, when the thread that started it ends.

    Args:
        parent: number of the expected parent process; if another one is there, this process ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def end_group() -> NoReturn:
    """End this process, its descendants and its group, at once."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if _leads_group():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _leads_group() -> bool:
    return hasattr(os, "getpgrp") and os.getpgrp() == os.getpid()
