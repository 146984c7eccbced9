"""The file."""

import errno
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.log import writer as log_module
from mloptimizer.hardware.log.thinning import thin
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import column_names, find_column
from tests.hardware.logs import gpu_log, gpu_watt_hours, read_log


def write_rows(path: Path, header: list[str], rows: list[dict[str, Any]], max_rows: int = 10_000) -> HardwareLog:
    log = HardwareLog(path, header, max_rows)
    for row in rows:
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", **row})
    log.close()
    return log


def test_a_killed_writers_log_is_read_without_its_torn_line(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import column_names
log = HardwareLog(Path({str(tmp_path / "log.csv")!r}), column_names(0))
while True:
    log.append({{"time_utc": "2026-01-01T00:00:00.000Z", "seconds": 1.0, "disk_write_mb_s": 12345.678}})
    print(flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("2026-01-01T00:00:00.000Z,2.0,,,,,,,,12")  # all its commas, half its number
    table = read_log(tmp_path / "log.csv")
    assert len(table) >= 20
    assert set(table["disk_write_mb_s"]) == {12345.678}


def test_a_continued_log_loses_its_torn_line_and_repeats_no_header(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 0.0}, {"seconds": 7.0}])
    with path.open("a") as file:
        file.write("2026-01-01T00:00:00.000Z,8")
    gpu_log(path, [{"seconds": 0.0}, {"seconds": 3.0}])
    assert list(pd.read_csv(path)["seconds"]) == [0.0, 7.0, 0.0, 3.0]
    assert read_trace(path).duration_s == 10.0


def test_a_log_of_another_slot_continues_with_the_columns_of_both(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    row = {"seconds": 1.0, "gpu1_power_w": 200.0, "core1_percent": 50.0, "part": "save"}
    write_rows(path, column_names(2, (0, 1)), [row])
    with path.open("a") as file:
        file.write("2026-01-01T00:00:00.000Z,8")  # torn by a kill
    write_rows(path, column_names(1, (5,)), [{"seconds": 0.5, "gpu0_power_w": 90.0, "core5_percent": 7.0}])
    table = read_log(path)
    assert list(table.columns) == [
        *column_names(1, (5,)), *(name for name in column_names(2, (0, 1)) if name not in column_names(1, (5,)))
    ]  # fmt: skip
    cells = table[["seconds", "part", "gpu0_power_w", "gpu1_power_w", "core1_percent", "core5_percent"]]
    assert cells.astype(object).where(cells.notna(), None).to_numpy().tolist() == [
        [1.0, "save", None, 200.0, 50.0, None],
        [0.5, None, 90.0, None, None, 7.0],
    ]


def test_a_log_of_an_older_version_continues(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time_utc,seconds,cpu_percent,fan_percent\n2026-01-01T00:00:00.000Z,3.0,25.0,80.0\n")
    write_rows(path, column_names(0), [{"seconds": 0.0, "cpu_percent": 50.0}, {"seconds": 1.0}])
    table = read_log(path)
    assert list(table["cpu_percent"].dropna()) == [25.0, 50.0]
    assert list(table["fan_percent"].dropna()) == [80.0]
    assert list(pd.read_csv(path)["seconds"]) == [3.0, 0.0, 1.0]


def test_a_file_that_is_not_a_log_is_kept_and_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="Move it away"):
        HardwareLog(path, column_names(0))
    assert path.read_text() == "a,b\n1,2\n"


def test_cells_without_a_value_are_empty(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0, "gpu0_power_w": math.nan, "cpu_percent": math.inf}])
    assert path.read_text().splitlines()[1] == "2026-01-01T00:00:00.000Z,1.0" + "," * (len(column_names(1)) - 2)


def test_a_row_that_the_disk_has_no_room_for_is_one_line_and_leaves_whole_rows(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from mloptimizer.core.errors import RunError
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import column_names
log = HardwareLog(Path({str(tmp_path / "log.csv")!r}), column_names(0))
row = {{"time_utc": "2026-01-01T00:00:00.000Z", "seconds": 1.5}}
log.append(row)
size = Path({str(tmp_path / "log.csv")!r}).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
try:
    log.append(row)
except RunError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(row)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "log.csv: " in told and len(told.splitlines()) == 1
    assert list(pd.read_csv(tmp_path / "log.csv")["seconds"]) == [1.5, 1.5]


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n"])
def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError):
        read_log(path)


# A long log is thinned


HEADER = ["time_utc", "seconds", "part", "images", "cpu_percent", "process_rss_mb", "gpu0_throttle_reasons", "unknown"]


def thinned(rows: list[str], older: int = 100) -> list[str]:
    lines = [f"T,{row}\n".encode() for row in rows]
    described = [find_column(name) for name in HEADER]
    return [line.decode().rstrip("\n").removeprefix("T,") for line in thin(lines, described, 1, older)]


def test_two_rows_become_one_as_each_column_says() -> None:
    rows = ["0.0,setup,0,50,10,1,a", "1.0,build,5,90,30,4,b", "4.0,,8,10,20,1,c"]
    # the first row stays; the others stand for one and three seconds
    assert thinned(rows) == ["0.0,setup,0,50,10,1,a", "4.0,,8,30.0,30,1,c"]


def test_empty_cells_do_not_count_when_rows_are_merged() -> None:
    assert thinned(["0.0,,,,,,", "1.0,save,7,,12,,x", "2.0,save,,40,,4,"]) == ["0.0,,,,,,", "2.0,save,7,40,12,4,x"]


def test_rows_of_two_attempts_are_never_merged_and_the_first_of_each_stays() -> None:
    rows = [f"{seconds},,,,,," for seconds in (0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 2.5)]
    assert [row.partition(",")[0] for row in thinned(rows)] == ["0.0", "2.0", "3.0", "0.5", "2.5"]


def test_only_the_older_rows_are_merged_and_damaged_ones_are_left_out() -> None:
    rows = [f"{seconds}.0,,,,,," for seconds in range(8)]
    rows[3] = "3.0"
    assert [row.partition(",")[0] for row in thinned(rows, 4)] == ["0.0", "2.0", "4.0", "5.0", "6.0", "7.0"]


def test_a_log_never_grows_beyond_its_rows_and_its_resolution_falls_with_age(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [
        {"seconds": float(second), "gpu0_power_w": 100.0 + second % 7, "gpu0_energy_j": 100.0 * second}
        for second in range(1000)
    ]
    rows[123]["process_rss_mb"] = 777.0
    log = HardwareLog(path, column_names(1), max_rows=64)
    for row in rows:
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", **row})
        assert path.read_bytes().count(b"\n") <= 64
    log.close()
    table = read_log(path)
    steps = table["seconds"].diff().dropna()
    assert steps.iloc[0] > 8 * steps.iloc[-1] == 8.0
    assert (table["seconds"].iloc[0], table["seconds"].iloc[-1]) == (0.0, 999.0)
    assert table["process_rss_mb"].max() == 777.0  # the peak survives
    joules = float((table["gpu0_power_w"] * table["seconds"].diff()).sum())
    assert joules == pytest.approx(sum(row["gpu0_power_w"] for row in rows[1:]), rel=1e-4)  # and so do sums over time
    assert gpu_watt_hours(path) == pytest.approx(100 * 999 / 3600)
    assert read_trace(path).duration_s == 999.0


@pytest.mark.parametrize(("moment", "rows"), [("before", 16), ("after", 12)])
def test_a_kill_while_a_log_is_thinned_leaves_the_old_or_the_new_one(tmp_path: Path, moment: str, rows: int) -> None:
    path = tmp_path / "log.csv"
    code = f"""
import os, signal
from pathlib import Path
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.reader import column_names
replace = Path.replace
def killed(self, target):
    if {moment!r} == "after":
        replace(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = killed
log = HardwareLog(Path({str(path)!r}), column_names(0), max_rows=16)
for second in range(17):
    log.append({{"time_utc": "2026-01-01T00:00:00.000Z", "seconds": float(second)}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    seconds = list(read_log(path)["seconds"])
    assert (len(seconds), seconds[0], seconds[-1]) == (rows, 0.0, 15.0)
    write_rows(path, column_names(0), [{"seconds": 0.0}])
    assert list(read_log(path)["seconds"]) == [*seconds, 0.0][-len(read_log(path)) :]
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]  # what the kill left is gone


def test_a_log_that_cannot_be_thinned_without_room_keeps_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "log.csv"
    log = HardwareLog(path, column_names(0), max_rows=16)
    monkeypatch.setattr(log_module, "thin", full)
    for second in range(17):
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", "seconds": float(second)})
    assert list(read_log(path)["seconds"]) == [float(second) for second in range(17)]
    monkeypatch.undo()
    log.append({"time_utc": "2026-01-01T00:00:00.000Z", "seconds": 17.0})  # two rows on, it is tried again
    assert len(read_log(path)) == 18 - 4
    log.close()
