"""Reads the energy that this machine's processors use, from Linux' power capping counters (RAPL).

Nothing here raises: where the counters are missing or cannot be read, as is usual without root, there is no energy.
"""

import re
from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_DOMAIN = re.compile(r"intel-rapl:\d+")  # AMD's have this name too; those with a second number are parts of these


class PackageEnergy:
    """Adds up what the counters of all processor packages gain; a counter that reaches its range restarts."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Start counting; `root` is the folder of the domains."""
        self._ranges_uj = _find_packages(root)
        self._joules = 0.0
        self._before: Mapping[Path, int] | None = None
        self.read()

    def read(self) -> float | None:
        """Return the energy of all packages since the first reading that worked, J; None if one cannot be read.

        The next reading makes up for energy used while they could not be read.
        """
        counters: dict[Path, int] = {}
        for package in self._ranges_uj:
            counter = _read_number(package / "energy_uj")
            if counter is None:
                return None
            counters[package] = counter
        if not counters:
            return None
        if self._before is not None:
            for package, range_uj in self._ranges_uj.items():
                gain = counters[package] - self._before[package]
                self._joules += (gain if gain >= 0 else max(gain + range_uj, 0)) / 1e6
        self._before = counters
        return self._joules


def _find_packages(root: Path) -> dict[Path, int]:
    """Return the folder of each package with the value at which its counter restarts, uJ."""
    try:
        folders = sorted(folder for folder in root.iterdir() if _DOMAIN.fullmatch(folder.name))
        names = {folder: (folder / "name").read_text(encoding="utf-8") for folder in folders}
    except (OSError, ValueError):
        return {}
    packages = [folder for folder, name in names.items() if name.startswith("package")]  # psys would count them again
    return {folder: _read_number(folder / "max_energy_range_uj") or 0 for folder in packages}


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
