"""When a search ends by its first trials: all failed before an epoch, for one cause, whatever words told it."""

import pytest

from mloptimizer.core.nouns import Failure, FailureKind
from mloptimizer.search.failing_start import FailingStart

SPACE, CRASH, ERROR = FailureKind.SPACE_ERROR, FailureKind.CRASH, FailureKind.ERROR
AT_LINE_5 = 'Traceback\n  File "own.py", line 5, in build\n    x\nValueError: {}'


def ends(*failures: Failure | None, epochs: int = 0) -> list[bool]:
    start = FailingStart()
    return [start.judge(failure, epochs) for failure in failures]


@pytest.mark.parametrize(
    "failures",
    [
        [Failure(SPACE, f"optimizer = '{name}': is not known") for name in ("adam", "rmsprop", "nadam")],
        [Failure(SPACE, f"layer dense_{n} needs {n} units") for n in range(3)],
        [Failure(SPACE, f"unknown {word}", AT_LINE_5.format(word)) for word in ("mish", "swishh", "relo")],
        [Failure(CRASH, f"the worker was killed by {name}") for name in ("SIGSEGV", "SIGABRT", "SIGILL")],
        [Failure(FailureKind.HUNG, "no sign of life")] * 3,
        [Failure(ERROR, "ValueError: the same")] * 3,
        [Failure(FailureKind.DATA_ERROR, "the images are gone")] * 3,
    ],
)
def test_three_failures_of_one_cause_end_it(failures: list[Failure]) -> None:
    assert ends(*failures) == [False, False, True]


def test_two_are_not_enough_and_more_do_not_end_it_again() -> None:
    assert ends(*[Failure(SPACE, "wrong")] * 5) == [False, False, True, False, False]


@pytest.mark.parametrize(
    "other",
    [
        None,
        Failure(SPACE, "something else"),
        Failure(ERROR, "wrong"),
        Failure(FailureKind.OUT_OF_MEMORY, "wrong"),
        Failure(SPACE, "other words", AT_LINE_5.replace("5", "6")),
    ],
)
def test_a_trial_that_ends_otherwise_lets_the_others_be_tried(other: Failure | None) -> None:
    wrong = Failure(SPACE, "wrong", AT_LINE_5)
    assert ends(wrong, other, wrong, wrong, wrong, wrong) == [False] * 6
    assert ends(wrong, wrong, other, wrong, wrong, wrong) == [False] * 6


@pytest.mark.parametrize("kind", ["out_of_memory", "non_finite", "time_limit", "lost_worker", "disk_full"])
def test_failures_that_other_trials_may_not_have_never_end_it(kind: str) -> None:
    assert ends(*[Failure(FailureKind(kind), "the same")] * 4) == [False] * 4


def test_trials_that_have_made_an_epoch_do_not_end_it() -> None:
    assert ends(*[Failure(CRASH, "gone")] * 4, epochs=1) == [False] * 4
