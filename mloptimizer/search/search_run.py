"""The parts that one run of a search works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.listener import Listener
from mloptimizer.core.nouns import Phase, TrialPlan
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.gpu_memory import ReadUse
from mloptimizer.hardware.columns import Cell
from mloptimizer.search.control import Control
from mloptimizer.search.gpu_sharing import GpuNeeds
from mloptimizer.search.job import Job


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """One run of a search, put together by `app.assemble`."""

    job: Job
    control: Control
    listeners: Listener
    make_engine: "Callable[[SearchRun, int, Phase], Engine]"  # for this many trials of the phase
    summarise: Callable[[TrialPlan], Mapping[str, Cell]]  # a trial's hardware log
    interruptible: Interruptible
    clock: Callable[[], float]
    absent_seconds: Callable[[], float]  # in which nobody listened to the trials since the last call
    memory_percent: Callable[[], float]  # share of the main memory in use, %
    gpu_needs: GpuNeeds  # of the study's trials
    read_gpus: ReadUse | None  # free memory of a GPU now; None: asks NVML
    explore_only: bool
