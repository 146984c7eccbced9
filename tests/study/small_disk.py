"""Runs a part of a test on a real disk of a few kB, which can be filled up."""

import ctypes
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

_NEW_MOUNTS, _NEW_USERS, _PRIVATE_BELOW = 0x00020000, 0x10000000, 0x4000 | 1 << 18  # <sched.h>, <sys/mount.h>


def run_on_small_disk(folder: Path, size_kb: int, call: Callable[[Path], object]) -> None:
    """Call it, in a child process, with the folder, which is a disk of that size there and only there."""

    def child() -> None:
        code = 1
        try:
            _mount(folder, size_kb)
            call(folder)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            for left in psutil.Process().children(recursive=True):  # what a failed check has not ended
                left.kill()
            os._exit(code)  # nothing of the parent is cleaned up here

    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Fill the disk up to that many bytes, and return the file to remove."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        free = os.statvfs(folder)
        file.write(b"x" * (free.f_bavail * free.f_bsize - leave_bytes))
    return path


def _mount(folder: Path, size_kb: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    user, group, is_root = os.geteuid(), os.getegid(), os.geteuid() == 0
    _check(library.unshare(_NEW_MOUNTS | (0 if is_root else _NEW_USERS)))
    if not is_root:  # root in a namespace of its own
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(library.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE_BELOW), None))
    _check(library.mount(b"tmpfs", bytes(folder), b"tmpfs", ctypes.c_ulong(0), f"size={size_kb}k".encode()))


def _check(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: the tests need to mount a small disk")
