from pathlib import Path

import numpy as np
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.hardware.analysis.trace import (
    Trace,
    highest,
    over_columns,
    read_trace,
    weighted_mean,
    weighted_percentile,
)


def read(tmp_path: Path, *lines: str, header: str = "time_utc,seconds,part,cpu_percent,gpu0_power_w") -> Trace:
    path = tmp_path / "log.csv"
    path.write_bytes(("\n".join([header, *lines]) + "\n").encode("utf-8", "surrogateescape"))
    return read_trace(path)


def test_a_trace_has_values_by_column_and_texts(tmp_path: Path) -> None:
    trace = read(tmp_path, "t0,0.0,setup,50.0,100", "t1,1.0,,,110")
    assert len(trace) == 2
    assert trace.texts["time_utc"] == ("t0", "t1")
    assert trace.part() == ("setup", "")
    assert list(trace.column("gpu0_power_w")) == [100.0, 110.0]
    assert trace.column("cpu_percent")[0] == 50.0 and np.isnan(trace.column("cpu_percent")[1])


def test_rows_between_two_restarts_are_an_attempt(tmp_path: Path) -> None:
    trace = read(tmp_path, "t,0.0,,,", "t,5.0,,,", "t,0.0,,,", "t,2.0,,,", "t,0.5,,,")
    assert trace.attempts == (slice(0, 2), slice(2, 4), slice(4, 5))
    assert trace.duration_s == 7.5


def test_rows_further_apart_weigh_more(tmp_path: Path) -> None:
    trace = read(tmp_path, "t,8.0,,10,", "t,16.0,,10,", "t,17.0,,90,", "t,18.0,,90,")
    assert list(trace.spans) == [8.0, 8.0, 1.0, 1.0]
    assert list(trace.weights) == [12.0, 4.5, 1.0, 0.5]
    assert weighted_mean(trace.column("cpu_percent"), trace.weights) == pytest.approx((16.5 * 10 + 1.5 * 90) / 18)


def test_a_log_of_an_earlier_version_lacks_columns_and_is_still_read(tmp_path: Path) -> None:
    trace = read(tmp_path, "t,0.0,1.0", "t,1.0,2.0", header="time_utc,seconds,cpu_percent")
    assert np.isnan(trace.column("images")).all() and not trace.has_values("images")
    assert trace.part() is None and trace.gpus() == []


def test_a_torn_line_a_short_line_and_a_cell_that_is_not_a_number_hide_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b'time_utc,seconds,cpu_percent\nt,0.0,1\nt,1.0\nt,x,5\nt,2.0,"\xff\nt,3.0,7\nt,4.0,9')
    trace = read_trace(path)
    assert list(trace.column("seconds")) == [0.0, 2.0, 3.0]
    assert highest(trace.column("cpu_percent")) == 7.0


def test_gpus_without_values_are_left_out_and_the_others_are_ordered_by_number(tmp_path: Path) -> None:
    header = ",".join(["time_utc,seconds", *(f"gpu{index}_power_w" for index in range(11))])
    trace = read(tmp_path, "t,0.0," + ",1" * 10, header=header)
    assert trace.gpus() == [f"gpu{index}" for index in range(1, 11)]
    assert len(trace.of_gpus("power_w")) == 10


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "time_utc,seconds"])
def test_a_file_that_is_not_a_log_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_log_without_rows_has_no_attempt(tmp_path: Path) -> None:
    trace = read(tmp_path)
    assert (len(trace), trace.attempts, trace.duration_s) == (0, (), 0.0)
    assert weighted_mean(trace.column("cpu_percent"), trace.weights) is None


def test_a_percentile_counts_time_not_rows() -> None:
    values, weights = np.array([10.0, 90.0, np.nan]), np.array([96.0, 4.0, 50.0])
    assert weighted_percentile(values, weights, 95) == 10.0
    assert weighted_percentile(values, weights, 97) == 90.0
    assert weighted_percentile(np.array([np.nan]), np.array([1.0]), 95) is None


def test_a_mean_over_columns_leaves_out_what_is_unknown() -> None:
    both = over_columns([np.array([1.0, np.nan, np.nan]), np.array([3.0, 4.0, np.nan])])
    assert list(both[:2]) == [2.0, 4.0] and np.isnan(both[2])


@pytest.mark.parametrize("header", ["time_utc,secondsx,part", "time_utc", "seconds,time_utc"])
def test_a_table_of_another_kind_is_not_a_hardware_log(tmp_path: Path, header: str) -> None:
    with pytest.raises(UsageError, match=r"\.csv: "):
        read(tmp_path, "a,1,b", header=header)
