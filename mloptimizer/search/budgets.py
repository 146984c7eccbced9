"""Tells when a run of a search has used up a budget, or has reached its target."""

import contextlib
import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import HardwareSample
from mloptimizer.core.nouns import Objective
from mloptimizer.hardware.analysis.energy import EnergyMeter

RUN_SETTINGS = Settings.names(group="Budgets")  # stated for each run, not kept with the study
_DISK_SECONDS = 5.0  # between two measurements of the study's folders
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Stop:
    """Why the run ends before its phases are done; `reached`: by its target, so that the winner is still tested."""

    reason: str
    reached: bool = False


class Budgets:
    """The limits of one run; its time starts when this is created."""

    def __init__(self, settings: Settings, clock: Callable[[], float], used_disk_mb: Callable[[], float]) -> None:
        """Args: clock: seconds from any origin; used_disk_mb: measures the study's files."""
        self._settings, self._clock, self._measure_disk_mb = settings, clock, used_disk_mb
        self._started, self._measured, self._disk_mb = clock(), -math.inf, 0.0
        self._meters = defaultdict[int, EnergyMeter](lambda: EnergyMeter(os.cpu_count() or 1))  # by trial

    def spend(self, sample: HardwareSample) -> None:
        """Count the energy that a trial's hardware used."""
        self._meters[sample.number].add(sample.row)

    @property
    def used_kwh(self) -> float:
        """Energy that the trials of this run have used, kWh: their GPUs, and their share of the machine's CPUs."""
        return sum(meter.joules for meter in self._meters.values()) / _JOULES_PER_KWH

    def find_stop(self) -> Stop | None:
        """Return which budget is used up, or None."""
        settings, now = self._settings, self._clock()
        if settings.max_hours and now - self._started >= 3600 * settings.max_hours:
            return Stop(f"max_hours = {settings.max_hours:g} have passed")
        if settings.max_kwh and self.used_kwh >= settings.max_kwh:
            return Stop(f"the trials have used max_kwh = {settings.max_kwh:g}")
        if settings.max_disk_mb and now - self._measured >= _DISK_SECONDS:
            self._measured, self._disk_mb = now, self._measure_disk_mb()
        if settings.max_disk_mb and self._disk_mb >= settings.max_disk_mb:
            return Stop(f"the study takes {self._disk_mb:,.0f} MB of max_disk_mb = {settings.max_disk_mb:g}")
        return None


def find_target_stop(settings: Settings, best: tuple[int, float] | None) -> Stop | None:
    """Return the stop for a best trial (number and value) that has reached the target, or None."""
    if settings.target == "none" or best is None:
        return None
    maximize = Objective(settings.objective).maximize
    if best[1] >= settings.target if maximize else best[1] <= settings.target:
        return Stop(f"trial {best[0]} reached target = {settings.target:g} with {best[1]:.4f}", reached=True)
    return None


def folder_mb(*folders: Path) -> float:
    """Return how much disk space the files in the folders take, MB; files that vanish meanwhile do not count."""
    total = 0
    for place, _, names in (step for folder in folders for step in os.walk(folder)):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).stat().st_blocks * 512
    return total / 2**20
