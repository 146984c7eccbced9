import errno
import os
from pathlib import Path

import pytest

from mloptimizer.core.errors import MloptimizerError, RunError, UsageError
from mloptimizer.core.system_errors import DISK_FULL, file_error


def describe(number: int) -> MloptimizerError:
    return file_error(Path("a"), OSError(number, os.strerror(number)))


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_has_the_systems_text_and_only_a_full_disk_asks_for_space(number: int) -> None:
    line = str(describe(number))
    assert line.startswith(f"a: {os.strerror(number)}.")
    assert ("Free some space" in line) == (number in DISK_FULL)
    assert line.count("\n") == 0


def test_an_error_without_a_text_of_its_own_gives_no_advice() -> None:
    assert str(describe(errno.EPROTO)) == f"a: {os.strerror(errno.EPROTO)}."


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EACCES, UsageError, "permissions"),
        (errno.EROFS, UsageError, "writable"),
        (errno.ENOLCK, UsageError, "no file locks"),
        (errno.EMFILE, RunError, "ulimit -n"),
        (errno.EDQUOT, RunError, "quota"),
        (errno.ESTALE, RunError, "Mount"),
        (errno.EIO, RunError, "connection"),
    ],
)
def test_an_error_says_what_can_be_done(number: int, kind: type[MloptimizerError], says: str) -> None:
    error = describe(number)
    assert type(error) is kind
    assert says in str(error)
