import math
from collections.abc import Iterable

import pytest

from mloptimizer.hardware.analysis.energy import EnergyMeter

OMEGA = 2 * math.pi / 37


def power(seconds: float) -> float:
    return 300 + 250 * math.sin(OMEGA * seconds)


def energy(seconds: float) -> float:
    """The integral of the power from 0 on, J."""
    return 300 * seconds + 250 / OMEGA * (1 - math.cos(OMEGA * seconds))


def metered(rows: Iterable[dict[str, float | None]], cores: int = 4) -> EnergyMeter:
    meter = EnergyMeter(cores)
    for row in rows:
        meter.add(row)
    return meter


def test_a_counter_counts_exactly() -> None:
    meter = metered({"seconds": s, "gpu0_energy_j": energy(s), "gpu0_power_w": 1.0} for s in range(91))
    assert meter.gpu_joules == pytest.approx(energy(90))
    assert meter.gpu_source == "counter"


def test_without_a_counter_a_varying_power_is_integrated_within_a_percent_over_missing_samples() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": None, "gpu0_power_w": power(s) if s % 7 else None}
            for s in range(1, 91)]  # fmt: skip
    meter = metered(rows)
    assert meter.gpu_joules == pytest.approx(energy(90), rel=0.01)
    assert meter.gpu_source == "power"


def test_a_counter_without_readings_for_a_while_catches_up() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": None if 30 < s < 60 else energy(s), "gpu0_power_w": power(s)}
            for s in range(91)]  # fmt: skip
    meter = metered(rows)
    assert meter.gpu_joules == pytest.approx(energy(90))
    assert meter.gpu_source == "counter"


def test_a_counter_that_is_lost_for_good_is_replaced_by_the_power() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": energy(s) if s <= 30 else None, "gpu0_power_w": power(s)}
            for s in range(91)]  # fmt: skip
    meter = metered(rows)
    assert meter.gpu_joules == pytest.approx(energy(90), rel=0.01)
    assert meter.gpu_source == "counter and power"


def test_a_counter_that_starts_late_counts_from_then_on_and_power_counts_before() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": energy(s) - energy(40) if s >= 40 else None,
             "gpu0_power_w": power(s)} for s in range(91)]  # fmt: skip
    assert metered(rows).gpu_joules == pytest.approx(energy(90), rel=0.01)


def test_a_counter_that_falls_is_not_trusted() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": energy(s) if s < 50 else energy(s) - energy(49.5),
             "gpu0_power_w": power(s)} for s in range(91)]  # fmt: skip
    assert metered(rows).gpu_joules == pytest.approx(energy(90), rel=0.01)


def test_a_gpu_that_is_lost_uses_nothing_from_then_on() -> None:
    rows = [{"seconds": float(s), "gpu0_power_w": 100.0 if s <= 10 else None} for s in range(91)]
    assert metered(rows).gpu_joules == 1000.0


@pytest.mark.parametrize("has_counter", [True, False])
def test_the_first_row_of_a_thinned_log_stands_for_the_time_before_it(has_counter: bool) -> None:
    """Old rows of a long log were merged in fours: their power is a mean, their time and counter the last."""
    rows: list[dict[str, float | None]] = []
    for last in [*range(4, 1000, 4), *range(1001, 1091)]:
        steps = 4 if last <= 1000 else 1
        mean = (energy(last) - energy(last - steps)) / steps
        counter = energy(last) if has_counter else None
        rows.append({"seconds": float(last), "gpu0_energy_j": counter, "gpu0_power_w": mean})
    assert metered(rows).gpu_joules == pytest.approx(energy(1090), rel=0.001 if has_counter else 0.01)


def test_attempts_add_up() -> None:
    attempt = [{"seconds": float(s), "gpu0_energy_j": 10.0 * s, "gpu1_power_w": 5.0} for s in range(11)]
    assert metered([*attempt, *attempt]).gpu_joules == pytest.approx(2 * 150)


def test_a_gpu_that_is_shared_counts_for_each_trial_in_part_while_it_is() -> None:
    rows = [{"seconds": float(s), "gpu0_energy_j": 100.0 * s, "trials_on_gpu": 1.0 if s <= 10 else 2.0}
            for s in range(21)]  # fmt: skip
    assert metered(rows).gpu_joules == pytest.approx(1000 + 500)
    integrated = [{**row, "gpu0_energy_j": None, "gpu0_power_w": 100.0} for row in rows]
    assert metered(integrated).gpu_joules == pytest.approx(1500)


def test_a_trial_gets_its_share_of_the_processors_energy() -> None:
    rows = [{"seconds": float(s), "cpu_energy_j": 40.0 * s, "cpu_percent": 50.0, "process_cpu_percent": 150.0}
            for s in range(11)]  # fmt: skip
    meter = metered(rows)  # 2 of 4 cores are busy, 1.5 of them with the trial
    assert meter.cpu_joules == pytest.approx(400 * 0.75)
    assert meter.gpu_joules is None and meter.joules == meter.cpu_joules


def test_trials_of_one_machine_share_its_processors_energy_and_never_count_it_twice() -> None:
    def rows(mine: float) -> list[dict[str, float | None]]:
        return [{"seconds": float(s), "cpu_energy_j": 40.0 * s, "cpu_percent": 100.0, "process_cpu_percent": mine}
                for s in range(11)]  # fmt: skip

    assert sum(metered(rows(mine)).joules for mine in (100.0, 200.0, 100.0)) == pytest.approx(400)


def test_processors_energy_waits_for_a_row_with_the_trials_share() -> None:
    rows = [{"seconds": float(s), "cpu_energy_j": 40.0 * s, "cpu_percent": 25.0 if s % 2 else None,
             "process_cpu_percent": 100.0} for s in range(12)]  # fmt: skip
    assert metered(rows).cpu_joules == pytest.approx(440)


def test_missing_energy_is_unknown_and_not_zero() -> None:
    meter = metered([{"seconds": 0.0, "cpu_percent": 5.0}, {"seconds": 1.0, "gpu0_power_w": None}])
    assert (meter.gpu_joules, meter.gpu_source, meter.cpu_joules, meter.joules) == (None, None, None, 0.0)
