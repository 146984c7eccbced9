"""Knows the vendors of GPUs: whose are used and read, and whose are only told apart from having no GPU.

Nothing here raises, and nothing heavy is loaded. NVIDIA's reader is the one that is built. Another takes a class with
what `Vendor` names, in `VENDORS`, and trials that see its GPUs.
"""

import platform
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from mloptimizer.hardware.read import nvml
from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS, GpuReader
from mloptimizer.hardware.read.nvml import Gpu

_AMD = "0x1002"
_DISPLAYS, _ACCELERATORS = "0x03", "0x12"  # what the PCI class of a GPU begins with, the second without a display


class GpuFigures(Protocol):
    """Reads one GPU."""

    def read(self, pids: Collection[int], now: float) -> Sequence[float | None]:
        """Return the figures in the order of `GPU_COLUMNS`; `pids` are the trial's processes, `now` is in seconds."""

    def close(self) -> None:
        """Let go of the GPU."""


class Vendor(Protocol):
    """The GPUs of one vendor."""

    name: str

    def list_gpus(self) -> list[Gpu]:
        """Return its GPUs of this machine; of NVIDIA's, those that this process may use."""

    def open_gpu(self, uuid: str) -> GpuFigures | None:
        """Return what reads the GPU with this UUID; None: such GPUs are not read."""


class Nvidia:
    """NVIDIA's GPUs, through the management library of their driver."""

    name = "NVIDIA"

    def list_gpus(self) -> list[Gpu]:
        """Return those that this process may use."""
        return nvml.list_gpus()

    def open_gpu(self, uuid: str) -> GpuFigures | None:
        """Return the reader of the GPU or the instance; one that is not there now may come."""
        return GpuReader(uuid) if uuid.startswith(("GPU-", nvml.INSTANCE)) else None


class Amd:
    """AMD's GPUs, as Linux lists them on the PCI bus; `devices` is its folder."""

    name = "AMD"

    def __init__(self, devices: Path = Path("/sys/bus/pci/devices")) -> None:
        self._devices = devices

    def list_gpus(self) -> list[Gpu]:
        """Return those of this machine, also those that are a part of the processor."""
        found = [path.name for path in _listed(self._devices) if _is_gpu(path, _AMD)]
        return [_bare_gpu(index, f"AMD-{address}", "AMD GPU") for index, address in enumerate(found)]

    def open_gpu(self, uuid: str) -> GpuFigures | None:
        """Return None: they are not read."""
        return None


class Apple:
    """The GPU of Apple's own processors; `system` and `processor` are as Python names them."""

    name = "Apple"

    def __init__(self, system: str = sys.platform, processor: str = platform.machine()) -> None:
        self._is_here = (system, processor) == ("darwin", "arm64")

    def list_gpus(self) -> list[Gpu]:
        """Return the one that such a processor has."""
        return [_bare_gpu(0, "APPLE-0", "Apple GPU")] if self._is_here else []

    def open_gpu(self, uuid: str) -> GpuFigures | None:
        """Return None: it is not read."""
        return None


class _Unread:
    """Stands for a GPU that nothing here reads."""

    def read(self, pids: Collection[int], now: float) -> Sequence[float | None]:
        return [None] * len(GPU_COLUMNS)

    def close(self) -> None: ...


VENDORS: tuple[Vendor, ...] = (Nvidia(), Amd(), Apple())


def open_gpu(uuid: str) -> GpuFigures:
    """Return what reads the GPU with this UUID; its cells are empty where no vendor's reader knows it."""
    readers = (vendor.open_gpu(uuid) for vendor in VENDORS)
    return next((reader for reader in readers if reader is not None), _Unread())


def describe_unused(vendors: Sequence[Vendor] = VENDORS[1:]) -> str:
    """Return a sentence without its end on GPUs that are here and of no use; empty: there are none."""
    words = []
    for vendor in vendors:
        count = len(vendor.list_gpus())
        if count == 1:
            words.append(f"an {vendor.name} GPU is here, but mloptimizer neither uses nor reads it")
        elif count:
            words.append(f"{count} {vendor.name} GPUs are here, but mloptimizer neither uses nor reads them")
    return "; ".join(words)


def _bare_gpu(index: int, uuid: str, name: str) -> Gpu:
    return Gpu(index, uuid, name, memory_mb=0, compute_capability=None, driver=None, mig=None)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_gpu(device: Path, vendor: str) -> bool:
    try:
        its_vendor, its_class = (
            (device / name).read_text(encoding="ascii").strip().lower() for name in ("vendor", "class")
        )
    except (OSError, ValueError):
        return False
    return its_vendor == vendor and its_class.startswith((_DISPLAYS, _ACCELERATORS))
