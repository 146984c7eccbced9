import math

import pytest

from mloptimizer.reports.formatting import duration, fixed, short, sparkline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (0.00123456, "0.001235"),
        (3e-7, "3.00e-07"),
        (123456.7, "123457"),
        (True, "yes"),
        (64, "64"),
        (["cnn", "resnet"], "cnn, resnet"),
        ([], "–"),
    ],
)
def test_a_value_is_short_and_a_missing_one_is_a_dash(value: object, text: str) -> None:
    assert short(value) == text


def test_numbers_of_a_column_have_the_same_decimals() -> None:
    assert [fixed(value) for value in (0.5, 1, None, math.nan)] == ["0.5000", "1.0000", "–", "–"]
    assert fixed(12.34, 1, "W") == "12.3 W"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (75, "1 min 15 s"),
        (7260, "2 h 1 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
    assert (duration(0.2, 0), duration(59.6, 0)) == ("0 s", "1 min 0 s")


def test_a_curve_goes_from_its_lowest_bar_to_its_highest() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"


def test_a_missing_value_of_a_curve_is_a_dot() -> None:
    assert sparkline([0.0, None, math.nan, 1.0]) == "▁··█"


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    line = sparkline([0.0] * 99 + [1.0], width=10)
    assert line == "▁" * 9 + "█"


def test_a_flat_curve_and_an_empty_one_have_no_slope() -> None:
    assert len(set(sparkline([2.0, 2.0]))) == 1
    assert sparkline([None]) == ""
