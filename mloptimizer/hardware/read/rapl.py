"""Reads the energy that the processors of this machine take, from the counters of Linux' power capping (RAPL).

Nothing here raises: where the counters are missing or may not be read, as mostly without root, there is no energy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_DOMAIN = re.compile(r"intel-rapl:\d+")  # AMD's have this name too; those with a further number are parts of these


@dataclass(frozen=True)
class _Package:
    counter: Path
    range_uj: int  # at which the counter begins anew


class PackageEnergy:
    """Adds up what the counters of all processor packages gain; a counter that reaches its range begins anew."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Begin to count; `root` is the folder of the domains."""
        self._packages = _find_packages(root)
        self._joules = 0.0
        self._before: Mapping[Path, int] | None = None
        self.read()

    def read(self) -> float | None:
        """Return the energy of all packages since the first reading that worked, J; None where one cannot be read.

        What was taken while they could not be read is made up for by the next reading.
        """
        counters = {}
        for package in self._packages:
            counter = _read_number(package.counter)
            if counter is None:
                return None
            counters[package.counter] = counter
        if not counters:
            return None
        if self._before is not None:
            for package in self._packages:
                gain = counters[package.counter] - self._before[package.counter]
                self._joules += (gain if gain >= 0 else max(gain + package.range_uj, 0)) / 1e6
        self._before = counters
        return self._joules


def _find_packages(root: Path) -> list[_Package]:
    try:
        folders = sorted(folder for folder in root.iterdir() if _DOMAIN.fullmatch(folder.name))
        names = {folder: (folder / "name").read_text(encoding="utf-8") for folder in folders}
    except (OSError, ValueError):
        return []
    mine = [folder for folder, name in names.items() if name.startswith("package")]  # psys would count them again
    return [_Package(folder / "energy_uj", _read_number(folder / "max_energy_range_uj") or 0) for folder in mine]


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
