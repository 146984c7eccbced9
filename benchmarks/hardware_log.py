"""Prints what the hardware log costs with 8 GPUs behind the stand-in for NVIDIA's library.

Goals: less than 1 % of a core and 30 MB at one row per second, less than 5 % of a core at ten. With "sampling driver",
each PCIe reading sleeps for 20 ms, as NVML's documentation says. The memory is the difference between the peaks of a
process with a monitor and of one without it and its imports. If there are major faults, the machine ran out of memory:
the kernel's search for free pages then counts as this process's time, and the line means nothing.

The last lines are about the driver, which writes the rows: one row, and thinning a full log.

Usage: python benchmarks/hardware_log.py [SECONDS_PER_LINE]
"""

import inspect
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mloptimizer.hardware.columns import MAX_ROWS  # noqa: E402
from mloptimizer.hardware.log.writer import HardwareLog  # noqa: E402
from mloptimizer.hardware.read.machine import list_cpus  # noqa: E402
from mloptimizer.hardware.read.monitor import Monitor  # noqa: E402
from mloptimizer.hardware.read.reader import HardwareReader, column_names  # noqa: E402
from mloptimizer.hardware.read.training_clock import TrainingClock  # noqa: E402
from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in, gpu_uuid  # noqa: E402

GPUS = 8
GOALS = {(GPUS, 1): "goal below 1 % and 30 MB", (GPUS, 10): "goal below 5 %"}
LINES = (  # label, GPUs, rows per second, microseconds that a PCIe reading sleeps
    ("no GPU", 0, 1, 0),
    (f"{GPUS} GPUs", GPUS, 1, 0),
    (f"{GPUS} GPUs", GPUS, 10, 0),
    (f"{GPUS} GPUs, sampling driver", GPUS, 1, 20_000),
    (f"{GPUS} GPUs, sampling driver", GPUS, 10, 20_000),
    ("1 GPU, sampling driver", 1, 10, 20_000),
)


def measure(gpus: int, rows_per_second: float, seconds: float) -> dict[str, float]:
    """Return what a monitor with its log cost this process in the given seconds; NVML is the stand-in."""
    with tempfile.TemporaryDirectory() as folder:
        log = HardwareLog(Path(folder) / "log.csv", column_names(gpus, list_cpus()))
        late: list[float] = []

        def emit(row: object) -> None:
            assert isinstance(row, dict)
            late.append(row["seconds"] * rows_per_second % 1 / rows_per_second)
            log.append(row)

        gpu_ids = [gpu_uuid(index) for index in range(gpus)]
        reader = HardwareReader(gpu_ids, os.getpid(), TrainingClock(), cpu_ids=list_cpus())
        with Monitor(reader, 1 / rows_per_second, emit):
            time.sleep(2.5 / rows_per_second)  # the first rows warm the caches
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            rows, cpu, wall = len(late), time.process_time(), time.monotonic()
            time.sleep(seconds)
            rows, cpu, wall = len(late) - rows, time.process_time() - cpu, time.monotonic() - wall
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        log.close()
    late_ms = 1000 * max(late[1:-1])
    return {
        "rows": rows, "cpu": cpu, "wall": wall, "peak_mb": _peak_mb(), "late_ms": late_ms, "faults": faults
    }  # fmt: skip


def measure_driver(gpus: int, rows: int = MAX_ROWS) -> dict[str, float]:
    """Return what a row costs the process that writes it, and what thinning a full log of that many rows costs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        log = HardwareLog(path, column_names(gpus, list_cpus()), rows)
        reader = HardwareReader([gpu_uuid(index) for index in range(gpus)], os.getpid(), cpu_ids=list_cpus())
        reader.read()
        time.sleep(0.1)
        row = reader.read()
        some = [  # no two cells equal, as on a busy machine
            {
                name: cell * random.uniform(0.5, 1) if isinstance(cell, float | int) else cell
                for name, cell in row.items()
            }
            for _ in range(50)
        ]
        cpu = time.process_time()
        for number in range(rows - 1):
            log.append({**some[number % len(some)], "seconds": float(number)})
        cpu = time.process_time() - cpu
        size, rss, start, thin_cpu = path.stat().st_size, _peak_mb(), time.monotonic(), time.process_time()
        log.append({**some[0], "seconds": float(rows)})
        wall, thin_cpu = time.monotonic() - start, time.process_time() - thin_cpu
        log.close()
    return {
        "row_ms": 1000 * cpu / rows, "size_mb": size / 2**20, "thin_s": wall, "thin_cpu_s": thin_cpu,
        "grown_mb": _peak_mb() - rss,
    }  # fmt: skip


def _peak_mb() -> float:
    """Return the peak resident memory of this process so far, MB; Linux."""
    # getrusage starts from the peak of the parent process
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory() as folder:
        stand_in = NvmlStandIn(build_nvml_stand_in(Path(folder)), Path(folder) / "state.txt")

        def run(call: str) -> dict[str, float]:
            code = (
                f"import sys, json; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
                f"from hardware_log import measure, measure_driver\nprint(json.dumps({call}))"
            )
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            answer: dict[str, float] = stand_in.run(code, PYTHONPATH=path)
            return answer

        stand_in.set(gpus=GPUS, gpu__nvlink_rx_kib=1, gpu__nvlink_tx_kib=1)
        bare = f"import json\nfrom pathlib import Path\n{inspect.getsource(_peak_mb)}"
        without = stand_in.run(f"{bare}\nprint(json.dumps({{'peak_mb': _peak_mb()}}))", PYTHONPATH=str(ROOT))
        print(f"{'machine':36} {'rows/s':>6} {'written':>8} {'% of a core':>11} {'CPU ms/row':>10} {'memory MB':>9}")
        for words, gpus, rate, delay_us in LINES:
            stand_in.set(gpus=gpus, delay_us__nvmlDeviceGetPcieThroughput=delay_us or None)
            cost = run(f"measure({gpus}, {rate}, {seconds})")
            print(
                f"{words:36} {rate:6} {cost['rows'] / cost['wall']:8.2f} {100 * cost['cpu'] / cost['wall']:11.3f}"
                f" {1000 * cost['cpu'] / cost['rows']:10.2f} {cost['peak_mb'] - without['peak_mb']:9.1f}"
                f"   latest row {cost['late_ms']:.0f} ms after its tick, {cost['faults']} major faults"
                f"   {GOALS.get((gpus, rate), '')}",
                flush=True,
            )
        stand_in.set(gpus=GPUS, delay_us__nvmlDeviceGetPcieThroughput=None)
        driver = run(f"measure_driver({GPUS})")
        print(
            f"driver, {GPUS} GPUs: {driver['row_ms']:.2f} ms per row; thinning a full log of {MAX_ROWS:,} rows and"
            f" {driver['size_mb']:.0f} MB: {driver['thin_s']:.2f} s, {driver['thin_cpu_s']:.2f} s of a core, once every"
            f" {MAX_ROWS // 4:,} rows, {driver['grown_mb']:.1f} MB"
        )
    print(json.dumps({"processes on this machine": len(psutil.pids()), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
