"""Records the traces of GPUs: the real monitor and reader over the stand-in for NVIDIA's library, whose state says what
the GPUs do while a training that is only pretended passes through its parts.

    python -m tests.traces.record_gpus
"""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.hardware.nvml.stand_in import MB, NvmlStandIn, build_nvml_stand_in

FOLDER = Path(__file__).parent

IDLE = {"utilization": 0, "memory_utilization": 0, "power_mw": 72_000, "sm_clock_mhz": 345, "clocks_event_reasons": 1}
HEALTHY = {
    "utilization": 93, "memory_utilization": 41, "power_mw": 540_000, "sm_clock_mhz": 1935, "clocks_event_reasons": 4,
    "memory_used": 52_000 * MB, "temperature": 61,
}  # fmt: skip
TRAININGS: dict[str, dict[str, object]] = {  # what the GPUs do while they train, and how long a step takes
    "healthy": {**HEALTHY, "step_s": 0.11},
    "launch_bound": {**HEALTHY, "utilization": 71, "memory_utilization": 6, "power_mw": 148_000, "step_s": 0.006,
                     "memory_used": 60_000 * MB, "clocks_event_reasons": 0},
    "memory_bound": {**HEALTHY, "utilization": 96, "memory_utilization": 84, "power_mw": 480_000, "step_s": 0.09},
    "throttled": {**HEALTHY, "sm_clock_mhz": 1290, "temperature": 87, "clocks_event_reasons": 0x60, "step_s": 0.17,
                  "power_mw": 430_000},
    "batch_too_small": {**HEALTHY, "utilization": 22, "memory_utilization": 5, "power_mw": 130_000, "step_s": 0.012,
                        "memory_used": 3_000 * MB, "clocks_event_reasons": 0},
    "imbalance": {**HEALTHY, "1__utilization": 48, "1__power_mw": 260_000, "step_s": 0.12},
}  # fmt: skip

CODE = """
import json, os, sys, time
from pathlib import Path
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.monitor import Monitor
from mloptimizer.hardware.read.reader import HardwareReader, column_names
from mloptimizer.hardware.read.training_clock import TrainingClock

gpus, state, idle = json.loads(os.environ["TRAINING"])
step_s = state.pop("step_s")
clock, begun = TrainingClock(), [None]
log = HardwareLog(Path(os.environ["LOG"]), column_names(gpus))
reader = HardwareReader([gpu_uuid(index) for index in range(gpus)], os.getpid(), clock)

def find_steps():
    made = 0 if begun[0] is None else int((time.monotonic() - begun[0]) / step_s)
    return made, 0.01 * made * step_s

def set_gpus(figures):
    set_values(gpus=gpus, **{f"gpu__{name}": value for name, value in figures.items()})

set_values(error__nvmlDeviceGetTotalEnergyConsumption=3)  # the state is changed: its integral would jump
set_gpus(idle)
clock.follow(256, find_steps)
with Monitor(reader, 0.5, log.append):
    for part, seconds in (("setup", 0.6), ("build", 0.4), ("first_step", 2.0)):
        with clock.during(part):
            time.sleep(seconds)
    set_gpus(state)
    begun[0] = time.monotonic()
    for epoch in (1, 2, 3):
        clock.epoch = epoch
        clock.enter("training")
        time.sleep(4.0)
        clock.enter("validation")
        time.sleep(0.4)
    clock.enter("")
log.close()
print(0)
"""


def record(name: str, library: Path, folder: Path) -> None:
    """Record one training into FOLDER."""
    path = FOLDER / f"{name}.csv"
    path.unlink(missing_ok=True)
    stand_in = NvmlStandIn(library, folder / f"{name}.txt")
    stand_in.set(gpus=2)
    training = json.dumps([2 if name == "imbalance" else 1, TRAININGS[name], IDLE])
    stand_in.run(CODE, TRAINING=training, LOG=str(path))


def main() -> None:
    """Record every training, all at the same time: each sleeps most of it."""
    with tempfile.TemporaryDirectory() as place:
        library = build_nvml_stand_in(Path(place))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: record(name, library, Path(place)), TRAININGS))


if __name__ == "__main__":
    main()
