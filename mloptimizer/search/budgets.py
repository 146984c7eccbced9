"""Knows when one run of a search has used up what it may use, or has reached what it was for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import HardwareSample
from mloptimizer.core.nouns import Objective
from mloptimizer.hardware.analysis.energy import EnergyMeter

RUN_SETTINGS = Settings.names(group="Budgets")  # stated for each run, not kept with the study
_DISK_SECONDS = 5.0  # between two looks at the study's folders
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Stop:
    """Why the run ends before its phases are done; `reached`: with what it was for, so that the winner is tested."""

    reason: str
    reached: bool = False


class Budgets:
    """The limits of one run; its time begins when this is made."""

    def __init__(self, settings: Settings, clock: Callable[[], float], used_disk_mb: Callable[[], float]) -> None:
        """Watch the settings' limits.

        Args:
            clock: seconds from any origin.
            used_disk_mb: returns what the study's files take.
        """
        self._settings = settings
        self._clock = clock
        self._used_disk_mb = used_disk_mb
        self._begun = clock()
        self._looked: float | None = None
        self._disk_mb = 0.0
        self._meters: dict[int, EnergyMeter] = {}  # by trial

    def spend(self, sample: HardwareSample) -> None:
        """Take what a trial's hardware did."""
        self._meters.setdefault(sample.number, EnergyMeter(os.cpu_count() or 1)).add(sample.row)

    @property
    def used_kwh(self) -> float:
        """What the trials of this run have taken, kWh: their GPUs, and their share of the machine's processors."""
        return sum(meter.joules for meter in self._meters.values()) / _JOULES_PER_KWH

    def find_stop(self) -> Stop | None:
        """Return which budget is used up, or None."""
        settings = self._settings
        if settings.max_hours and self._clock() - self._begun >= 3600 * settings.max_hours:
            return Stop(f"max_hours = {settings.max_hours:g} have passed")
        if settings.max_kwh and self.used_kwh >= settings.max_kwh:
            return Stop(f"the trials have used max_kwh = {settings.max_kwh:g}")
        if settings.max_disk_mb and self._disk() >= settings.max_disk_mb:
            return Stop(f"the study takes {self._disk_mb:,.0f} MB of max_disk_mb = {settings.max_disk_mb:g}")
        return None

    def _disk(self) -> float:
        now = self._clock()
        if self._looked is None or now - self._looked >= _DISK_SECONDS:
            self._looked, self._disk_mb = now, self._used_disk_mb()
        return self._disk_mb


def find_target_stop(settings: Settings, best: tuple[int, float] | None) -> Stop | None:
    """Return the stop for a best trial (number and value) that has reached the target, or None."""
    if settings.target == "none" or best is None:
        return None
    maximize = Objective(settings.objective).maximize
    if best[1] >= settings.target if maximize else best[1] <= settings.target:
        return Stop(f"trial {best[0]} reached target = {settings.target:g} with {best[1]:.4f}", reached=True)
    return None


def folder_mb(*folders: Path) -> float:
    """Return what the files below the folders take on the disk, MB; what vanishes meanwhile counts nothing."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    total += (Path(place) / name).stat().st_blocks * 512
                except OSError:
                    continue
    return total / 2**20
