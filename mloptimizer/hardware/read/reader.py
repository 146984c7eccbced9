"""Reads the rows of the hardware log: the training, the GPUs and the machine, at the same moment.

A value that cannot be read is None, and nothing here raises.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence

from mloptimizer.core.words import utc_stamp
from mloptimizer.hardware.columns import MAX_ROWS, TIME_COLUMNS, TRAINING_COLUMNS, Cell, Column
from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS, GpuReader
from mloptimizer.hardware.read.machine import CORE_COLUMN, MachineReader, machine_columns
from mloptimizer.hardware.read.training_clock import TrainingClock, TrainingReader


def describe_columns(gpu_count: int, cpu_ids: Iterable[int] = ()) -> dict[str, Column]:
    """Return the columns of a slot's log in order, by the names in its header.

    Args:
        gpu_count: how many GPUs the slot has.
        cpu_ids: its logical cores, each of which has a column.
    """
    gpus = {f"gpu{index}_{column.name}": column for index in range(gpu_count) for column in GPU_COLUMNS}
    named = {column.name: column for column in (*TIME_COLUMNS, *TRAINING_COLUMNS)}
    return {**named, **gpus, **machine_columns(cpu_ids)}


def column_names(gpu_count: int, cpu_ids: Iterable[int] = ()) -> list[str]:
    """Return the header of a slot's log; takes what `describe_columns` takes."""
    return list(describe_columns(gpu_count, cpu_ids))


def find_column(name: str) -> Column | None:
    """Return the column with this name in any log's header; None: no log of this version has it."""
    if re.fullmatch(r"core\d+_percent", name):
        return CORE_COLUMN
    return _COLUMNS.get(re.sub(r"^gpu\d+_", "gpu0_", name))


_COLUMNS = describe_columns(1)


class HardwareReader:
    """Reads one row after another. Create it in the process that reads: NVML does not survive a fork."""

    def __init__(
        self,
        gpu_ids: Sequence[str],
        pid: int,
        training: TrainingClock | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_ids: Sequence[int] = (),
    ) -> None:
        """Start the log's time.

        Args:
            gpu_ids: UUIDs of the slot's GPUs; gpu0 is the first of them.
            pid: the trial's process.
            training: what the trial does, on the same clock (seconds from any origin); None: its cells are empty.
            cpu_ids: the slot's logical cores.
        """
        self._clock = clock
        self._start = clock()
        self._columns = column_names(len(gpu_ids), cpu_ids)
        self._training = TrainingReader(training, self._start) if training else None
        self._gpus = [GpuReader(uuid) for uuid in gpu_ids]
        self._machine = MachineReader(pid, self._start, cpu_ids)

    def read(self) -> dict[str, Cell]:
        """Return a row by column, in the order of `column_names`; None for each value that cannot be read now."""
        now = self._clock()
        training = self._training.read(now) if self._training else [None] * len(TRAINING_COLUMNS)
        machine = self._machine.read(now)
        gpus = [cell for gpu in self._gpus for cell in gpu.read(self._machine.pids, now)]
        return dict(zip(self._columns, [utc_stamp(), now - self._start, *training, *gpus, *machine], strict=True))

    def close(self) -> None:
        """Release the GPUs; their cells are empty from now on."""
        for gpu in self._gpus:
            gpu.close()


_README = """# Hardware logs

`STUDY/trial_00007.csv` shows what the machine did while trial 7 of the study STUDY trained, one row every
`monitor_seconds`; `hall_of_fame_00007.csv` shows it while the trial trained further. To read a log:

```python
pandas.read_csv("STUDY/trial_00007.csv")
```

A cell is empty if its value could not be read: the GPU has no such counter or was lost, or the value covers the time
since the previous row and there is none, or it is less than 0.05 s old. A torn last line, left by a kill, is not a row.
One MB is 2**20 bytes.

`seconds`, and every count since the log began, restart at 0 when another attempt of the trial continues the log.
A log holds at most {rows:,} rows. When it is full, pairs of rows in its older half are merged. Rows are then no longer
evenly spaced, so weight them by the time since the previous row. Merging preserves memory and temperature peaks and
all sums.

GPUs are numbered in the order in which the trial saw them; the names of their columns begin with `gpu0_`, `gpu1_` and
so on. A machine without NVIDIA's library or GPUs has no such columns. A trial on an instance of a partitioned GPU (MIG)
has the instance's memory, and the clocks, temperature and throttle reasons of the whole GPU; utilization, power, energy
and links are empty, as NVML reports them only for all instances together. `core0_percent` stands for one column per
logical core of the trial's slot.
"""


def render_log_readme() -> str:
    """Return the README of the folder of hardware logs: every column with its unit, its meaning and its source."""
    lines = [_README.format(rows=MAX_ROWS), "| column | unit | meaning | source |", "|---|---|---|---|"]
    for name, column in describe_columns(1, (0,)).items():
        lines.append(f"| `{name}` | {column.unit} | {column.meaning} | {column.source} |")
    return "\n".join(lines) + "\n"
