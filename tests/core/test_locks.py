import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.locks import hold_lock, is_abandoned, is_held

HOLDER = """
import sys
from pathlib import Path
from mloptimizer.core.locks import hold_lock

with hold_lock(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    holder = subprocess.Popen(
        [sys.executable, str(script), str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(UsageError, match=f"process {holder.pid} on .*, since .* has it"),
        hold_lock(lock, "{holder} has it"),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with hold_lock(lock, "busy"):
        assert lock.read_text().startswith(f"process {os.getpid()} on ")


def test_a_link_in_the_place_of_a_lock_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    (tmp_path / "driver.lock").symlink_to(thesis)
    with pytest.raises(UsageError, match=r"driver.lock: .*symbolic link"), hold_lock(tmp_path / "driver.lock"):
        pass
    assert thesis.read_text() == "years of work"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_that_the_holder_forks_does_not_hold_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    ready, tell = os.pipe()
    with hold_lock(lock):
        child = os.fork()
        if child == 0:
            os.write(tell, b"1")
            signal.pause()
        os.read(ready, 1)
    try:
        with hold_lock(lock, "busy"):
            assert is_held(lock)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_asking_about_a_lock_neither_creates_nor_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    assert not is_held(lock) and not is_abandoned(lock) and not lock.exists()
    with hold_lock(lock):
        assert is_held(lock) and not is_abandoned(lock)
    with lock.open("rb") as reader:
        import fcntl

        fcntl.flock(reader, fcntl.LOCK_SH)  # as another that asks does
        assert not is_held(lock) and is_abandoned(lock)


NO_LOCKS = """
import errno
import sys
from pathlib import Path
import fcntl

def flock(*_):
    raise OSError(getattr(errno, sys.argv[1]), "these locks are not there")

fcntl.flock = flock
from mloptimizer.core.errors import UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.study.storage import open_storage
for use in (lambda: hold_lock(Path("driver.lock")).__enter__(), lambda: open_storage("", Path("new.journal"))):
    try:
        use()
    except UsageError as error:
        print(error)
"""


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_the_error_names_a_file_system_without_locks(tmp_path: Path, number: str) -> None:
    done = subprocess.run([sys.executable, "-c", NO_LOCKS, number], cwd=tmp_path, capture_output=True, text=True)
    assert [line.count("no file locks") for line in done.stdout.splitlines()] == [1, 1], done.stderr
