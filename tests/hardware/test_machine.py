"""The processors, the memory and the processes of this machine."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mloptimizer.hardware.columns import TRAINING_COLUMNS
from mloptimizer.hardware.read import machine
from mloptimizer.hardware.read.machine import MB, MachineReader, list_cpus, machine_columns
from mloptimizer.hardware.read.reader import HardwareReader
from tests.hardware.logs import spend_processor_seconds


def test_the_cores_are_those_that_this_process_may_use() -> None:
    assert set(list_cpus()) <= set(range(os.cpu_count() or 1))
    if hasattr(os, "sched_getaffinity"):
        assert set(list_cpus()) == os.sched_getaffinity(0)


def test_available_memory_is_a_part_of_the_total() -> None:
    assert 0 < machine.available_memory_mb() < machine.total_memory_mb()
    assert machine.total_memory_mb() == psutil.virtual_memory().total // MB


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


def test_a_process_that_ended_has_empty_cells_and_the_machine_is_still_read() -> None:
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
    untold = {"cpu_mhz", "page_cache_mb", "cpu_energy_j"}  # on some machines
    assert {name for name in row if row[name] is None} - training - untold == {
        "cpu_percent",
        "process_cpu_percent",
        "disk_read_mb_s",
        "disk_write_mb_s",
        "network_rx_mb_s",
        "network_tx_mb_s",
    }


def read_cells(reader: MachineReader, now: float, cpu_ids: tuple[int, ...] = ()) -> dict[str, float | None]:
    return dict(zip(machine_columns(cpu_ids), reader.read(now), strict=True))


def test_every_core_of_the_slot_has_its_busy_share(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [[(10, 90), (50, 50), (0, 100)], [(11, 99), (58, 52), (0, 110)]]  # busy and idle seconds of three cores
    told = iter(times)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [_core(*seconds) for seconds in next(told)])
    cells = read_cells(MachineReader(os.getpid(), 0.0, (2, 1, 7)), 10.0, (2, 1, 7))
    assert (cells["core1_percent"], cells["core2_percent"], cells["core7_percent"]) == (80.0, 0.0, None)
    assert cells["cpu_percent"] == pytest.approx(30.0)


def _core(busy: float, idle: float) -> Any:
    return type("Times", (tuple,), {"idle": idle})((busy, idle))


def test_a_core_that_computes_is_busy() -> None:
    cpus = list_cpus()
    reader = MachineReader(os.getpid(), 0.0, cpus)
    spend_processor_seconds(0.3)
    cells = read_cells(reader, 1.0, cpus)
    busy = [cells[f"core{cpu}_percent"] for cpu in cpus]
    assert all(isinstance(percent, float) and 0 <= percent <= 100 for percent in busy)
    assert max(percent or 0.0 for percent in busy) > 10


def test_the_network_is_counted_without_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def links(**received: int) -> dict[str, Any]:
        return {name: SimpleNamespace(bytes_recv=n * MB, bytes_sent=2 * n * MB) for name, n in received.items()}

    told = iter([links(lo=1, eth0=10, wlan0=5), links(lo=1000, eth0=30, wlan0=6)])
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: next(told))
    cells = read_cells(MachineReader(os.getpid(), 0.0), 2.0)
    assert (cells["network_rx_mb_s"], cells["network_tx_mb_s"]) == (10.5, 21.0)


def test_a_machine_that_hides_its_network_disks_and_clocks_has_empty_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(**_: object) -> Any:
        raise FileNotFoundError("/proc")

    for name in ("net_io_counters", "disk_io_counters", "cpu_freq"):
        monkeypatch.setattr(psutil, name, hidden)
    cells = read_cells(MachineReader(os.getpid(), 0.0), 2.0)
    gone = ("network_rx_mb_s", "network_tx_mb_s", "disk_read_mb_s", "disk_write_mb_s", "cpu_mhz")
    assert {cells[name] for name in gone} == {None}
    assert cells["ram_total_mb"] is not None


def test_the_clock_of_the_cores_is_read_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([1000.0, 2000.0, 3000.0])
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=next(clocks)))
    reader = MachineReader(os.getpid(), 0.0)
    assert [read_cells(reader, now)["cpu_mhz"] for now in (0.0, 5.0, 9.9, 10.0, 19.0, 25.0)] == [
        1000.0, 1000.0, 1000.0, 2000.0, 2000.0, 3000.0
    ]  # fmt: skip
