"""Reads one row of the hardware log after the other: the training, the GPUs, and the machine, at the same time.

A figure that cannot be read is None, and nothing here raises.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence

from mloptimizer.core.words import utc_stamp
from mloptimizer.hardware.columns import MAX_ROWS, TIME_COLUMNS, TRAINING_COLUMNS, Cell, Column
from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS, GpuReader
from mloptimizer.hardware.read.machine import CORE_COLUMN, MachineReader, machine_columns
from mloptimizer.hardware.read.training_clock import TrainingClock, TrainingReader

_OF_A_GPU, _OF_A_CORE = re.compile(r"gpu\d+_(\w+)"), re.compile(r"core\d+_percent")


def describe_columns(gpu_count: int, cpu_ids: Iterable[int] = ()) -> dict[str, Column]:
    """Return the columns of the log of a slot by the names in its header, in order.

    Args:
        gpu_count: how many GPUs the slot has.
        cpu_ids: its logical cores, each of which has a column.
    """
    gpus = {f"gpu{index}_{column.name}": column for index in range(gpu_count) for column in GPU_COLUMNS}
    named = {column.name: column for column in (*TIME_COLUMNS, *TRAINING_COLUMNS)}
    return {**named, **gpus, **machine_columns(cpu_ids)}


def column_names(gpu_count: int, cpu_ids: Iterable[int] = ()) -> list[str]:
    """Return the header of the log of a slot with so many GPUs and these logical cores."""
    return list(describe_columns(gpu_count, cpu_ids))


def find_column(name: str) -> Column | None:
    """Return the column with this name in the header of any log; None: no log of this version has it."""
    if _OF_A_CORE.fullmatch(name):
        return CORE_COLUMN
    of_gpu = _OF_A_GPU.fullmatch(name)
    return _COLUMNS.get(f"gpu0_{of_gpu[1]}" if of_gpu else name)


_COLUMNS = describe_columns(1)


class HardwareReader:
    """Reads one row after the other; to be made in the process that reads, as NVML does not survive a fork."""

    def __init__(
        self,
        gpu_ids: Sequence[str],
        pid: int,
        training: TrainingClock | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_ids: Sequence[int] = (),
    ) -> None:
        """Begin the log's time.

        Args:
            gpu_ids: UUIDs of the slot's GPUs; gpu0 is the first of them.
            pid: the trial's process.
            training: what the trial does, on the same clock; None: its cells are empty.
            clock: seconds from any origin.
            cpu_ids: the slot's logical cores.
        """
        self._clock = clock
        self._start = clock()
        self._columns = column_names(len(gpu_ids), cpu_ids)
        self._training = TrainingReader(training, self._start) if training else None
        self._gpus = [GpuReader(uuid) for uuid in gpu_ids]
        self._machine = MachineReader(pid, self._start, cpu_ids)

    def read(self) -> dict[str, Cell]:
        """Return a row by column, in the order of `column_names`; None for what cannot be read now."""
        now = self._clock()
        training = self._training.read(now) if self._training else [None] * len(TRAINING_COLUMNS)
        machine = self._machine.read(now)
        cells: list[Cell] = [utc_stamp(), now - self._start, *training]
        for gpu in self._gpus:
            cells += gpu.read(self._machine.pids, now)
        return dict(zip(self._columns, [*cells, *machine], strict=True))

    def close(self) -> None:
        """Let go of the GPUs; their cells are empty from now on."""
        for gpu in self._gpus:
            gpu.close()


_README = """# Hardware logs

`STUDY/trial_00007.csv` says what the machine did while trial 7 of the study STUDY was trained, one row every
`monitor_seconds` (`hall_of_fame_00007.csv`: while it was trained on). One line reads it:

```python
pandas.read_csv("STUDY/trial_00007.csv")
```

An empty cell is a figure that could not be read: a GPU without that counter, a GPU that was lost, the first row of a
mean since the row before, or two rows less than 0.05 s apart. A torn last line, left by a kill, is no row. One MB is
2**20 bytes.

`seconds`, and all that counts since the log began, start anew where another attempt of the trial went on with the log.
A log holds at most {rows:,} rows. When it is full, the older half of its rows are merged two by two, so that rows are
not equally far apart: weight them by the time since the row before. Peaks of memory and temperature stay, and so do
all sums.

GPUs are numbered in the order in which the trial saw them: `gpu0_`, `gpu1_` and so on stand before the names of their
columns. A machine without NVIDIA's library or GPUs has none of these columns. A trial on an instance of a partitioned
GPU (MIG) has the instance's memory, and the clocks, temperature and throttle reasons of the whole GPU; utilisation,
power, energy and links are empty, as NVML tells them of all instances together. `core0_percent` stands for a column of
each logical core of the trial's slot.
"""


def render_log_readme() -> str:
    """Return the README of the folder of hardware logs: every column with its unit, its meaning and its source."""
    lines = [_README.format(rows=MAX_ROWS), "| column | unit | meaning | source |", "|---|---|---|---|"]
    for name, column in describe_columns(1, (0,)).items():
        lines.append(f"| `{name}` | {column.unit} | {column.meaning} | {column.source} |")
    return "\n".join(lines) + "\n"
