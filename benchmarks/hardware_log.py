"""Prints what the hardware log costs with 8 GPUs behind the stand-in for NVIDIA's library.

Goal: less than 1 % of a core at one row a second. "as a driver that samples" lets each PCIe reading sleep for 20 ms, as
the documentation of NVML says that it does. Major faults other than 0 mean that the machine ran out of memory
meanwhile: the kernel's search for free pages then counts as this process's time, and the line says nothing.

Usage: python benchmarks/hardware_log.py [SECONDS_PER_LINE]
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mloptimizer.hardware.log import HardwareLog  # noqa: E402
from mloptimizer.hardware.monitor import Monitor  # noqa: E402
from mloptimizer.hardware.reader import HardwareReader, columns  # noqa: E402
from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in, gpu_uuid  # noqa: E402

GPUS = 8
GOAL_PERCENT = 1.0
LINES = (  # words, GPUs, rows a second, microseconds that a PCIe reading sleeps
    ("no GPU", 0, 1, 0),
    (f"{GPUS} GPUs", GPUS, 1, 0),
    (f"{GPUS} GPUs", GPUS, 10, 0),
    (f"{GPUS} GPUs, as a driver that samples", GPUS, 1, 20_000),
    (f"{GPUS} GPUs, as a driver that samples", GPUS, 10, 20_000),
    ("1 GPU, as a driver that samples", 1, 10, 20_000),
)


def measure(gpus: int, rows_per_second: float, seconds: float) -> dict[str, float]:
    """Return what a monitor cost this process in so many seconds; NVML is the stand-in."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        log = HardwareLog(Path(folder) / "log.csv", columns(gpus))
        late: list[float] = []

        def emit(row: object) -> None:
            assert isinstance(row, dict)
            late.append(row["seconds"] * rows_per_second % 1 / rows_per_second)
            log.append(row)

        reader = HardwareReader([gpu_uuid(index) for index in range(gpus)], os.getpid())
        with Monitor(reader, 1 / rows_per_second, emit):
            time.sleep(2.5 / rows_per_second)  # the first rows warm the caches
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            rows, cpu, wall, rss = len(late), time.process_time(), time.monotonic(), process.memory_info().rss
            time.sleep(seconds)
            rows, cpu, wall = len(late) - rows, time.process_time() - cpu, time.monotonic() - wall
            grown = process.memory_info().rss - rss
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        log.close()
    late_ms = 1000 * max(late[1:-1])
    return {
        "rows": rows, "cpu": cpu, "wall": wall, "grown_kb": grown / 1024, "late_ms": late_ms, "faults": faults
    }  # fmt: skip


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory() as folder:
        stand_in = NvmlStandIn(build_nvml_stand_in(Path(folder)), Path(folder) / "state.txt")
        print(
            f"{'machine':36} {'rows/s':>6} {'written':>8} {'% of a core':>11} {'CPU ms/row':>10} {'RSS growth KB':>13}"
        )
        for words, gpus, rate, delay_us in LINES:
            stand_in.set(gpus=gpus, delay_us__nvmlDeviceGetPcieThroughput=delay_us or None)
            code = (
                f"import sys, json; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
                f"from hardware_log import measure\nprint(json.dumps(measure({gpus}, {rate}, {seconds})))"
            )
            cost = stand_in.run(code, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
            percent = 100 * cost["cpu"] / cost["wall"]
            print(
                f"{words:36} {rate:6} {cost['rows'] / cost['wall']:8.2f} {percent:11.3f}"
                f" {1000 * cost['cpu'] / cost['rows']:10.2f} {cost['grown_kb']:13.0f}"
                f"   latest row {cost['late_ms']:.0f} ms after its tick, {cost['faults']} major faults"
                + (f"   goal below {GOAL_PERCENT:g} %" if (gpus, rate) == (GPUS, 1) else ""),
                flush=True,
            )
    print(json.dumps({"processes on this machine": len(psutil.pids()), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
