"""Which running trials must end because they hang or take too long; the tests set the time."""

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, EpochRecord, HardwareSample, SignOfLife
from mloptimizer.core.nouns import FailureKind
from mloptimizer.engines.deadlines import Absence, Deadlines


class Watch:
    """Deadlines of 10 minutes without a sign, 30 more for compiling, and a clock that a test sets."""

    def __init__(self, **changes: float) -> None:
        self.minutes = 0.0
        self.deadlines = Deadlines(Settings(**changes), lambda: 60 * self.minutes)  # type: ignore[arg-type]
        self.deadlines.start(1, spent_seconds=0.0)

    def overdue_at(self, minutes: float) -> list[tuple[int, FailureKind]]:
        self.minutes = minutes
        return [(number, failure.kind) for number, failure in self.deadlines.find_overdue()]


def test_a_trial_that_builds_and_compiles_has_more_time() -> None:
    watch = Watch()
    assert watch.overdue_at(40) == []
    assert watch.overdue_at(40.1) == [(1, FailureKind.HUNG)]


def test_a_training_that_gives_no_sign_for_ten_minutes_hangs() -> None:
    watch = Watch()
    watch.deadlines.hear(SignOfLife(1, step=1))
    assert watch.overdue_at(10) == []
    assert watch.overdue_at(10.1) == [(1, FailureKind.HUNG)]


def test_every_event_is_a_sign_but_not_the_rows_of_the_hardware_log() -> None:
    watch = Watch()
    watch.deadlines.hear(SignOfLife(1, step=1))
    watch.minutes = 8
    watch.deadlines.hear(EpochRecord(1, 1, {}, 1.0))
    watch.minutes = 16
    watch.deadlines.hear(Decision(1, "XLA", "off", ""))
    assert watch.overdue_at(25) == []
    watch.deadlines.hear(HardwareSample(1, {}))
    assert watch.overdue_at(26.1) == [(1, FailureKind.HUNG)]


def test_the_time_limit_of_a_trial_includes_all_its_attempts() -> None:
    watch = Watch(trial_minutes=20, hang_minutes=1000)
    watch.deadlines.start(2, spent_seconds=15 * 60)
    assert watch.overdue_at(5) == []
    assert watch.overdue_at(5.1) == [(2, FailureKind.TIME_LIMIT)]
    assert watch.overdue_at(20.1) == [(1, FailureKind.TIME_LIMIT), (2, FailureKind.TIME_LIMIT)]


def test_time_when_nobody_listened_counts_against_no_trial() -> None:
    watch = Watch(trial_minutes=12)
    watch.deadlines.hear(SignOfLife(1, step=1))
    watch.minutes = 50
    watch.deadlines.hold(45 * 60)
    assert watch.overdue_at(55) == []
    assert watch.overdue_at(55.1) == [(1, FailureKind.HUNG)]
    watch.deadlines.hear(SignOfLife(1, step=2))
    assert watch.overdue_at(57) == []
    assert watch.overdue_at(57.1) == [(1, FailureKind.TIME_LIMIT)]


def test_a_trial_that_has_ended_is_forgotten_and_its_seconds_are_returned() -> None:
    watch = Watch()
    watch.minutes = 2
    assert watch.deadlines.end(1) == 120
    watch.deadlines.hear(SignOfLife(1, step=9))  # it was on its way
    assert watch.overdue_at(1000) == []


def test_a_driver_that_was_suspended_did_not_listen_and_one_that_was_busy_did() -> None:
    clock = [100.0]
    absence = Absence(lambda: clock[0])
    found = []
    for seconds in (0.5, 4.0, 25.0, 0.5, 3600.0):
        clock[0] += seconds
        found.append(absence.seconds())
    assert found == [0.0, 0.0, 25.0, 0.0, 3600.0]


def test_a_trial_that_began_while_nobody_listened_gets_no_more_time_than_that() -> None:
    watch = Watch()
    watch.deadlines.hear(SignOfLife(1, step=1))
    watch.minutes = 5
    watch.deadlines.hold(60 * 60)
    assert watch.overdue_at(15) == []
    assert watch.overdue_at(15.1) == [(1, FailureKind.HUNG)]
    assert watch.deadlines.end(1) == pytest.approx(10.1 * 60)
