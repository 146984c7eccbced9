import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from mloptimizer.errors import UsageError
from mloptimizer.hardware import machine
from mloptimizer.hardware import monitor as monitor_module
from mloptimizer.hardware.columns import TRAINING_COLUMNS
from mloptimizer.hardware.log import HardwareLog
from mloptimizer.hardware.machine import list_cpus
from mloptimizer.hardware.monitor import Monitor, next_tick
from mloptimizer.hardware.nvml import Gpu, visible_gpus
from mloptimizer.hardware.reader import HardwareReader, columns, render_log_readme
from mloptimizer.hardware.summary import read_log, summarise_log
from mloptimizer.hardware.training_clock import TrainingClock
from tests.hardware.nvml.stand_in import MB, NvmlStandIn, build_nvml_stand_in, gpu_uuid

README = Path(__file__).parents[2] / "hardware_performance_logs" / "README.md"

LIST_GPUS = """
import dataclasses, json
from mloptimizer.hardware.nvml import list_gpus
print(json.dumps([dataclasses.asdict(gpu) for gpu in list_gpus()]))
"""
LIST_UUIDS = """
import json
from mloptimizer.hardware.nvml import list_gpus
print(json.dumps([gpu.uuid for gpu in list_gpus()]))
"""
READ_GPU_0 = """
import json, os
from mloptimizer.hardware.reader import HardwareReader
set_figures(gpu__0__processes=f"{os.getpid()}:1073741824 1:99999999")
reader = HardwareReader([gpu_uuid(0)], os.getpid())
row = reader.read()
reader.close()
print(json.dumps({name.removeprefix("gpu0_"): cell for name, cell in row.items() if name.startswith("gpu0_")}))
"""


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> NvmlStandIn:
    stand_in = NvmlStandIn(nvml_library, tmp_path / "nvml-state.txt")
    stand_in.set(gpus=8)
    return stand_in


def uuids(*indices: int) -> list[str]:
    return [gpu_uuid(index) for index in indices]


def spend_processor_seconds(seconds: float) -> float:
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        pass
    return spent


class Ramp:
    """A reader whose rows count up; it sets `reached` once it read as many as a test waits for."""

    def __init__(self, rows: int) -> None:
        self.read_rows, self.wanted, self.closed = 0, rows, False
        self.reached = threading.Event()

    def read(self) -> Mapping[str, float | str | None]:
        self.read_rows += 1
        if self.read_rows >= self.wanted:
            self.reached.set()
        return {"seconds": float(self.read_rows)}

    def close(self) -> None:
        self.closed = True


def gpu_log(path: Path, rows: list[dict[str, float]], gpus: int = 1) -> Path:
    log = HardwareLog(path, columns(gpus))
    for row in rows:
        log.append({"time_utc": "2026-01-01T00:00:00.000Z", **row})
    log.close()
    return path


# The GPUs of this machine


def test_a_gpu_is_listed_with_all_that_its_driver_tells(nvml: NvmlStandIn) -> None:
    assert nvml.run(LIST_GPUS)[3] == {
        "index": 3,
        "uuid": gpu_uuid(3),
        "name": "NVIDIA Stand-in",
        "memory_mb": 81920,
        "compute_capability": [9, 0],
        "driver": "580.95.05",
        "mig": False,
    }


def test_what_the_driver_does_not_tell_is_none(nvml: NvmlStandIn) -> None:
    functions = ("Name", "CudaComputeCapability", "MigMode", "MemoryInfo", "MemoryInfo_v2")
    nvml.set(gpus=1, **{f"error__nvmlDeviceGet{name}": 3 for name in functions}, error__nvmlSystemGetDriverVersion=999)
    (gpu,) = nvml.run(LIST_GPUS)
    assert gpu.pop("uuid") == gpu_uuid(0)
    assert gpu == {"index": 0, "memory_mb": 0} | dict.fromkeys(("name", "compute_capability", "driver", "mig"))


def test_a_gpu_in_mig_mode_says_so(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=2, gpu__1__mig=1)
    assert [gpu["mig"] for gpu in nvml.run(LIST_GPUS)] == [False, True]


def test_a_lost_gpu_is_left_out_and_the_others_stay(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=3, error__1__all=15)
    assert nvml.run(LIST_UUIDS) == uuids(0, 2)


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetUUID"])
def test_a_library_that_fails_has_no_gpus(nvml: NvmlStandIn, function: str) -> None:
    nvml.set(**{f"error__{function}": 9})
    assert nvml.run(LIST_UUIDS) == []


def test_a_machine_without_the_library_has_no_gpus(nvml: NvmlStandIn, tmp_path: Path) -> None:
    without = NvmlStandIn(tmp_path / "nowhere" / "libnvidia-ml.so.1", nvml.state)
    broken = tmp_path / "broken" / "libnvidia-ml.so.1"
    broken.parent.mkdir()
    broken.write_text("no library")
    assert NvmlStandIn(broken, nvml.state).run(LIST_UUIDS) == []
    if not _has_real_library():
        assert without.run(LIST_UUIDS) == []


def _has_real_library() -> bool:
    code = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", (2, 0)),
        (" 5 , 1 ", (5, 1)),
        (f"{gpu_uuid(3)},{gpu_uuid(1)}", (3, 1)),
        ("GPU-a7,4", (7, 4)),  # the beginning of a UUID
        ("1,99,2", (1,)),  # CUDA stops at the first entry that names no GPU
        ("1,-1,2", (1,)),
        ("GPU-a", ()),  # the beginning of several
        ("MIG-1", ()),
        ("-1", ()),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_chooses_and_orders_the_gpus(visible: str, expected: tuple[int, ...]) -> None:
    gpus = [Gpu(index, gpu_uuid(index), None, 0, None, None, None) for index in range(8)]
    assert visible_gpus(gpus, visible) == [gpus[index] for index in expected]


@pytest.mark.parametrize(("visible", "expected"), [("6,0", (6, 0)), (gpu_uuid(4), (4,)), ("", ())])
def test_the_persons_cuda_visible_devices_is_respected(
    nvml: NvmlStandIn, visible: str, expected: tuple[int, ...]
) -> None:
    assert nvml.run(LIST_UUIDS, CUDA_VISIBLE_DEVICES=visible) == uuids(*expected)


def test_without_cuda_visible_devices_all_gpus_are_listed(nvml: NvmlStandIn) -> None:
    assert nvml.run(LIST_UUIDS) == uuids(*range(8))


def test_what_is_in_use_of_gpus_is_told_of_them_together(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=3, gpu__0__processes="7:64 9:64", gpu__2__processes="8:64", gpu__2__memory_used=100 * MB)
    code = (
        "import json; from mloptimizer.hardware.nvml import GpuUseReader; reader = GpuUseReader()\n"
        "def read(*gpus):\n"
        "    use = reader.read([gpu_uuid(gpu) for gpu in gpus]); return use and [sorted(use.pids), use.used_mb]\n"
        "both, unknown = read(0, 2), read(0, 5); reader.close(); reader.close()\n"
        "print(json.dumps([both, unknown, read(1)]))"
    )
    assert nvml.run(code) == [[[7, 8, 9], 2148.0], None, [[], 2048.0]]
    nvml.set(error__nvmlInitWithFlags=999)
    assert nvml.run(code) == [None, None, None]


def test_a_slot_is_idle_again_when_nvml_no_longer_lists_its_worker(nvml: NvmlStandIn, tmp_path: Path) -> None:
    nvml.set(gpus=1)
    code = f"""
import json
from mloptimizer.engines.process import ProcessEngine
from mloptimizer.records import Slot
from tests.engines.contract import act, bare_plan, collect
from tests.engines.test_process import pid_of_waiting
slot = Slot("gpu", gpu_ids=(gpu_uuid(0),))
engine = ProcessEngine([slot], act, "forkserver")
engine.start(bare_plan(0, {{"act": "wait"}}, {str(tmp_path)!r}), slot)
set_figures(gpu__0__processes=f"{{pid_of_waiting(engine)}}:64", gpu__0__memory_used=9000 * 2**20)
engine.stop_trial(0)
collect(engine, 1)
found = [(len(engine.idle_slots()), engine.releasing())]
set_figures(gpu__0__processes=None)
engine.wait(60)
found.append((len(engine.idle_slots()), engine.releasing()))
engine.close()
print(json.dumps(found))
"""
    assert nvml.run(code, PYTHONPATH=str(README.parents[1])) == [[0, True], [1, False]]


# Processors and memory of this machine


def test_the_cores_are_those_that_this_process_may_use() -> None:
    assert set(list_cpus()) <= set(range(os.cpu_count() or 1))
    if hasattr(os, "sched_getaffinity"):
        assert set(list_cpus()) == os.sched_getaffinity(0)


def test_available_memory_is_a_part_of_the_total() -> None:
    assert 0 < machine.available_memory_mb() < machine.total_memory_mb()
    assert machine.total_memory_mb() == psutil.virtual_memory().total // MB


# The figures of a GPU


def test_every_gpu_column_holds_the_drivers_figure_in_its_unit(nvml: NvmlStandIn) -> None:
    assert nvml.run(READ_GPU_0) == {
        "utilization_percent": 61,
        "memory_utilization_percent": 37,
        "memory_used_mb": 2048,
        "memory_total_mb": 81920,
        "process_memory_mb": 1024,
        "power_w": 250,
        "energy_j": 0,
        "temperature_c": 55,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "pcie_rx_mb_s": 3,
        "pcie_tx_mb_s": 5,
    }


def test_gpu_columns_follow_the_order_of_the_slot_and_change_live(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.reader import HardwareReader
reader = HardwareReader([gpu_uuid(5), gpu_uuid(2)], os.getpid())
rows = [reader.read()]
set_figures(gpu__2__temperature=90)
rows.append(reader.read())
print(json.dumps([[row["gpu0_temperature_c"], row["gpu1_temperature_c"]] for row in rows]))
"""
    nvml.set(gpu__5__temperature=75, gpu__2__temperature=72)
    assert nvml.run(code) == [[75, 72], [75, 90]]


@pytest.mark.parametrize("code", [3, 13, 999])
def test_a_figure_that_a_gpu_does_not_offer_is_empty_and_the_others_stay(nvml: NvmlStandIn, code: int) -> None:
    nvml.set(error__nvmlDeviceGetPowerUsage=code, error__nvmlDeviceGetTotalEnergyConsumption=code)
    row = nvml.run(READ_GPU_0)
    assert {name for name, cell in row.items() if cell is None} == {"power_w", "energy_j"}


def test_an_older_drivers_functions_serve_where_it_lacks_the_new_ones(tmp_path: Path) -> None:
    without = ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTotalEnergyConsumption"]
    nvml = NvmlStandIn(build_nvml_stand_in(tmp_path, without), tmp_path / "state.txt")
    nvml.set(gpus=1)
    row = nvml.run(READ_GPU_0)
    assert (row["temperature_c"], row["memory_used_mb"], row["energy_j"]) == (55, 2048 + 512, None)


def test_a_gpu_lost_on_the_way_empties_its_cells_and_no_others(nvml: NvmlStandIn) -> None:
    code = """
import json, os
from mloptimizer.hardware.reader import HardwareReader
reader = HardwareReader([gpu_uuid(0), gpu_uuid(1)], os.getpid())
before = reader.read()
set_figures(error__0__all=15)
after = reader.read()
print(json.dumps([before, after]))
"""
    before, after = nvml.run(code)
    assert before["gpu0_power_w"] == 250
    assert all(cell is None for name, cell in after.items() if name.startswith("gpu0_"))
    assert (after["gpu1_power_w"], after["ram_total_mb"]) == (250, before["ram_total_mb"])


def test_a_gpu_that_the_driver_does_not_know_has_empty_cells(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=0)
    assert set(nvml.run(READ_GPU_0.replace("set_figures(", "dict(")).values()) == {None}


def test_memory_of_other_processes_is_not_the_trials(nvml: NvmlStandIn) -> None:
    row = nvml.run(READ_GPU_0.replace("{os.getpid()}:", "1:"))
    assert row["process_memory_mb"] is None


# The energy of a GPU

LOG_90_SECONDS = """
import json, os
from pathlib import Path
from mloptimizer.hardware.log import HardwareLog
from mloptimizer.hardware.reader import HardwareReader, columns
now = 1000.0
set_figures(now_s=now)
reader = HardwareReader([gpu_uuid(0)], os.getpid(), clock=lambda: now)
log = HardwareLog(Path(os.environ["LOG"]), columns(1))
for row in range(91):
    log.append(reader.read())
    now += 1
    set_figures(now_s=now)
print(0)
"""


@pytest.mark.parametrize("has_counter", [True, False])
def test_the_energy_is_within_one_percent_of_the_integral_of_a_varying_power(
    nvml: NvmlStandIn, tmp_path: Path, has_counter: bool
) -> None:
    base, swing, period = 300.0, 250.0, 37.0
    nvml.set(gpu__power_mw=base * 1000, gpu__swing_mw=swing * 1000, gpu__period_s=period)
    nvml.set(error__nvmlDeviceGetTotalEnergyConsumption=None if has_counter else 3)
    nvml.run(LOG_90_SECONDS, LOG=str(tmp_path / "log.csv"))
    omega = 2 * math.pi / period
    joules = base * 90 + swing / omega * (math.cos(omega * 1000) - math.cos(omega * 1090))
    assert summarise_log(tmp_path / "log.csv").gpu_energy_wh == pytest.approx(joules / 3600, rel=0.01)
    assert abs(joules - base * 90) > 0.02 * joules  # a constant power would be seen


# The figures of the machine and the trial's processes


def test_a_row_has_every_column_in_order_and_no_gpu_without_one() -> None:
    clock = iter([10.0, 11.5])
    reader = HardwareReader([], os.getpid(), TrainingClock(), clock=lambda: next(clock))
    spend_processor_seconds(0.05)
    row = reader.read()
    assert list(row) == columns(0) == [name for name in columns(2) if not name.startswith("gpu")]
    assert row["seconds"] == 1.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(row["time_utc"]))
    optional = ("disk_read_mb_s", "disk_write_mb_s", "part", "trials_on_gpu")
    assert None not in {row[name] for name in columns(0) if name not in optional}


def test_processor_time_of_the_process_counts_in_percent_of_one_core() -> None:
    clock = iter([0.0, 2.0])
    reader = HardwareReader([], os.getpid(), clock=lambda: next(clock))
    spent = spend_processor_seconds(0.3)
    percent = reader.read()["process_cpu_percent"]
    assert isinstance(percent, float)
    assert 100 * spent / 2 - 1 <= percent <= 100 * spent / 2 + 5


def test_a_childs_processor_time_and_memory_are_the_trials_too() -> None:
    burn = (
        "import time\nwhile time.process_time() < 0.3: pass\nblock = bytearray(50_000_000)\nprint(flush=True)\ninput()"
    )
    clock = iter([0.0, 100.0, 200.0])
    reader = HardwareReader([], os.getpid(), clock=lambda: next(clock))
    alone = reader.read()["process_rss_mb"]
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        row = reader.read()
        child.communicate(b"\n")
    assert isinstance(alone, float) and isinstance(row["process_rss_mb"], float)
    assert row["process_rss_mb"] > alone + 45
    assert isinstance(row["process_cpu_percent"], float) and row["process_cpu_percent"] >= 100 * 0.29 / 100


def test_a_process_that_ended_has_empty_cells_and_the_machine_goes_on() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    clock = iter([0.0, 1.0])
    reader = HardwareReader([], child.pid, clock=lambda: next(clock))
    child.communicate(b"\n")
    spend_processor_seconds(0.05)
    row = reader.read()
    assert (row["process_rss_mb"], row["process_cpu_percent"]) == (None, None)
    assert row["cpu_percent"] is not None


def test_rates_are_empty_where_too_little_time_has_passed() -> None:
    clock = iter([5.0, 5.04])
    row = HardwareReader([], os.getpid(), clock=lambda: next(clock)).read()
    training = {column.name for column in TRAINING_COLUMNS}  # of which nobody tells here
    assert {name for name in row if row[name] is None} - training == {
        "cpu_percent",
        "process_cpu_percent",
        "disk_read_mb_s",
        "disk_write_mb_s",
    }


# The monitor


@pytest.mark.parametrize(
    ("tick", "elapsed", "expected"),
    [(0, 0.01, 1), (4, 4.2, 5), (4, 5.0, 5), (4, 7.3, 8), (4, 3.99, 5)],
)
def test_ticks_keep_to_the_interval_and_skip_what_a_late_reading_missed(
    tick: int, elapsed: float, expected: int
) -> None:
    assert next_tick(tick, elapsed, 1.0) == expected
    assert next_tick(tick, elapsed / 10, 0.1) == expected


def test_a_monitor_reads_at_once_at_every_tick_and_at_the_end() -> None:
    rows: list[Any] = []
    reader = Ramp(rows=5)
    with Monitor(reader, 0.01, rows.append):
        assert reader.reached.wait(30)
    assert len(rows) == reader.read_rows >= 5
    assert reader.closed


def test_a_short_trial_has_a_first_and_a_last_row() -> None:
    rows: list[Any] = []
    with Monitor(Ramp(rows=1), 60, rows.append):
        pass
    assert rows == [{"seconds": 1.0}, {"seconds": 2.0}]


def test_an_error_in_the_thread_is_logged_once_and_the_rows_after_it_come(caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Any] = []
    reader = Ramp(rows=6)
    with Monitor(reader, 0.01, _failing_twice(rows)) as monitor:
        assert reader.reached.wait(30)
    assert (monitor.lost_rows, len(rows)) == (2, reader.read_rows - 2)
    assert [record.getMessage() for record in caplog.records] == ["hardware log: a row is lost: OSError: disk full"]


def _failing_twice(rows: list[Any]) -> Callable[[Any], None]:
    def emit(row: Mapping[str, float]) -> None:
        if row["seconds"] <= 2:
            raise OSError("disk full")
        rows.append(row)

    return emit


def test_a_driver_that_hangs_does_not_hold_the_trial(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor_module, "STOP_SECONDS", 0.05)
    reader, driver_answers = Ramp(rows=1), threading.Event()
    with Monitor(reader, 1.0, lambda _: driver_answers.wait(30)) as monitor:
        assert reader.reached.wait(30)
    assert "has not ended within 0.05 s" in caplog.text
    driver_answers.set()
    monitor.stop()
    assert reader.closed


def test_a_monitor_records_the_gpus_to_a_file_that_pandas_reads_in_one_line(nvml: NvmlStandIn, tmp_path: Path) -> None:
    code = """
import os, threading
from pathlib import Path
from mloptimizer.hardware.log import HardwareLog
from mloptimizer.hardware.monitor import Monitor
from mloptimizer.hardware.reader import HardwareReader, columns
log, rows = HardwareLog(Path(os.environ["LOG"]), columns(2)), threading.Semaphore(0)
reader = HardwareReader([gpu_uuid(0), gpu_uuid(1)], os.getpid())
with Monitor(reader, 0.1, lambda row: (log.append(row), rows.release())):
    assert all(rows.acquire(timeout=30) for _ in range(3))
print(0)
"""
    nvml.run(code, LOG=str(tmp_path / "log.csv"))
    table = pd.read_csv(tmp_path / "log.csv")
    assert list(table.columns) == columns(2)
    assert len(table) >= 4
    assert set(table["gpu1_power_w"]) == {250}
    assert table["gpu0_energy_j"].iloc[-1] == pytest.approx(250 * table["seconds"].iloc[-1], rel=0.2, abs=3)


# The file


def test_a_killed_writers_log_is_read_without_its_torn_line(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from mloptimizer.hardware.log import HardwareLog
from mloptimizer.hardware.reader import columns
log = HardwareLog(Path({str(tmp_path / "log.csv")!r}), columns(0))
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
    assert summarise_log(path).duration_s == 10.0


def test_a_log_with_other_columns_is_refused_and_kept(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0}], gpus=1)
    with pytest.raises(UsageError, match="other columns"):
        HardwareLog(path, columns(2))
    assert list(read_log(path)["seconds"]) == [1.0]


def test_cells_without_a_figure_are_empty(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0, "gpu0_power_w": math.nan, "cpu_percent": math.inf}])
    assert path.read_text().splitlines()[1] == "2026-01-01T00:00:00.000Z,1.0" + "," * (len(columns(1)) - 2)


def test_a_row_that_the_disk_has_no_room_for_is_one_line_and_leaves_whole_rows(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from mloptimizer.errors import RunError
from mloptimizer.hardware.log import HardwareLog
from mloptimizer.hardware.reader import columns
log = HardwareLog(Path({str(tmp_path / "log.csv")!r}), columns(0))
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
    assert "log.csv: " in told and "Free some space" in told
    assert list(pd.read_csv(tmp_path / "log.csv")["seconds"]) == [1.5, 1.5]


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n"])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError):
        read_log(path)


# The summary


def test_a_summary_has_mean_peak_duration_and_energy(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_power_w": 100.0 + s, "gpu0_energy_j": 110 * s} for s in (0.0, 10.0, 20.0)]
    summary = summarise_log(gpu_log(tmp_path / "log.csv", rows))
    assert (summary.rows, summary.duration_s) == (3, 20.0)
    assert summary.gpu_energy_wh == pytest.approx(2200 / 3600)
    assert dict(summary.figures.loc["gpu0_power_w"]) == {"mean": 110.0, "peak": 120.0}


def test_the_energies_of_all_gpus_and_of_a_continued_log_add_up(tmp_path: Path) -> None:
    rows = [{"seconds": s, "gpu0_energy_j": 36 * s, "gpu1_power_w": 36.0} for s in (0.0, 50.0)]
    path = gpu_log(tmp_path / "log.csv", rows, gpus=2)
    assert summarise_log(gpu_log(path, rows, gpus=2)).gpu_energy_wh == pytest.approx(4 * 0.5)


def test_a_log_without_gpus_has_no_energy(tmp_path: Path) -> None:
    path = gpu_log(tmp_path / "log.csv", [{"seconds": 1.0, "cpu_percent": 50.0}], gpus=0)
    summary = summarise_log(path)
    assert summary.gpu_energy_wh is None
    assert summary.figures.loc["cpu_percent", "peak"] == 50.0


def test_a_log_without_rows_is_summarised_too(tmp_path: Path) -> None:
    summary = summarise_log(gpu_log(tmp_path / "log.csv", []))
    assert (summary.rows, summary.duration_s, summary.gpu_energy_wh) == (0, 0.0, None)


# The README


def test_the_readme_is_the_one_that_the_program_writes() -> None:
    assert README.read_text(encoding="utf-8") == render_log_readme()


def test_the_readme_names_every_column_once() -> None:
    assert re.findall(r"^\| `(\w+)` \|", render_log_readme(), re.MULTILINE) == columns(1)
