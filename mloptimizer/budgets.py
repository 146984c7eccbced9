"""Knows when one run of a search has used up what it may use, or has reached what it was for."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mloptimizer.records import HardwareSample, Objective
from mloptimizer.settings import Settings

RUN_SETTINGS = ("max_hours", "max_kwh", "max_disk_mb", "target", "stop_when_stagnant")  # of a run, not of a study
_DISK_SECONDS = 5.0  # between two looks at the study's folders
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Stop:
    """Why the run ends before its phases are done; `reached`: with what it was for, so that the winner is tested."""

    reason: str
    reached: bool = False


class EnergyMeter:
    """Adds up the energy of the trials' GPUs from the rows of their hardware logs: the counter, or else the power."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._last: dict[int, Mapping[str, float | str | None]] = {}

    def add(self, sample: HardwareSample) -> None:
        """Take a row; the first of an attempt only says where to count from."""
        before, now = self._last.get(sample.number, {}), sample.row
        self._last[sample.number] = now
        seconds = _figure(now, "seconds") - _figure(before, "seconds")
        if not before or seconds <= 0:  # the log began anew
            return
        for name in now:
            if not name.endswith("_power_w"):
                continue
            gpu = name.removesuffix("power_w")
            counted, earlier = now.get(f"{gpu}energy_j"), before.get(f"{gpu}energy_j")
            if isinstance(counted, (int, float)) and isinstance(earlier, (int, float)) and counted >= earlier:
                self.joules += counted - earlier
            else:
                self.joules += seconds * (_figure(now, name) + _figure(before, name)) / 2


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
        self._meter = EnergyMeter()

    def spend(self, sample: HardwareSample) -> None:
        """Take what a trial's hardware did."""
        self._meter.add(sample)

    def find_stop(self) -> Stop | None:
        """Return which budget is used up, or None."""
        settings = self._settings
        if settings.max_hours and self._clock() - self._begun >= 3600 * settings.max_hours:
            return Stop(f"max_hours = {settings.max_hours:g} have passed")
        if settings.max_kwh and self._meter.joules >= settings.max_kwh * _JOULES_PER_KWH:
            return Stop(f"the GPUs have used max_kwh = {settings.max_kwh:g}")
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


def _figure(row: Mapping[str, float | str | None], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
