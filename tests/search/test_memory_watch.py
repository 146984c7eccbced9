from mloptimizer.config.settings import Settings
from mloptimizer.search.memory_watch import MemoryWatch


class Gauge:
    """A watch whose figure a test sets."""

    def __init__(self) -> None:
        self.percent = 50.0
        self.watch = MemoryWatch(lambda: self.percent, Settings(memory_threshold=80, memory_ceiling=92))

    def stop_at(self, percent: float, *running: int) -> int | None:
        self.percent = percent
        decision = self.watch.choose_stop(running)
        return decision.number if decision else None


def test_above_the_ceiling_the_newest_trial_is_stopped() -> None:
    gauge = Gauge()
    assert gauge.stop_at(92.0, 3, 1, 2) is None
    assert gauge.stop_at(92.1, 3, 1, 2) == 2


def test_the_decision_tells_the_figures() -> None:
    gauge = Gauge()
    gauge.percent = 97.25
    decision = gauge.watch.choose_stop([4, 5])
    assert decision is not None
    assert "97.2 % of the main memory is in use, memory_ceiling = 92" in decision.reason


def test_a_single_trial_is_left_alone() -> None:
    assert Gauge().stop_at(99.0, 3) is None


def test_one_trial_is_stopped_at_a_time() -> None:
    gauge = Gauge()
    assert gauge.stop_at(95.0, 1, 2, 3) == 3
    assert gauge.stop_at(95.0, 1, 2, 3) is None
    gauge.watch.end(2)
    assert gauge.stop_at(95.0, 1, 3) is None
    gauge.watch.end(3)
    assert gauge.stop_at(95.0, 1, 2) == 2


def test_nothing_starts_beside_others_until_the_memory_is_below_the_threshold() -> None:
    gauge = Gauge()
    gauge.stop_at(95.0, 1, 2)
    gauge.stop_at(80.0, 1, 2)
    assert not gauge.watch.allows_start(1)
    assert gauge.watch.allows_start(0)
    gauge.stop_at(79.9, 1)
    assert gauge.watch.allows_start(1)


def test_above_the_ceiling_nothing_starts_beside_a_single_trial_either() -> None:
    gauge = Gauge()
    assert gauge.stop_at(95.0, 1) is None
    assert not gauge.watch.allows_start(1)
    assert gauge.watch.allows_start(0)


def test_a_memory_between_threshold_and_ceiling_stops_nobody() -> None:
    gauge = Gauge()
    assert gauge.stop_at(91.0, 1, 2) is None
    assert gauge.watch.allows_start(2)
