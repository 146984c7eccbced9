"""Reports GPUs that mloptimizer neither uses nor reads: AMD's and Apple's. Nothing here raises."""

import platform
import sys
from pathlib import Path

_AMD = "0x1002"
_DISPLAYS, _ACCELERATORS = "0x03", "0x12"  # prefixes of a GPU's PCI class, the second for GPUs without a display


def describe_unused(
    devices: Path = Path("/sys/bus/pci/devices"), system: str = sys.platform, processor: str = platform.machine()
) -> str:
    """Return a sentence, without its full stop, about such GPUs; empty: there are none.

    Args:
        devices: where Linux lists the devices on the PCI bus.
        system: by Python's name for it, like `processor`.
    """
    if (system, processor) == ("darwin", "arm64"):
        return "an Apple GPU is here, but mloptimizer neither uses nor reads it"
    count = sum(_is_amd_gpu(device) for device in devices.glob("*"))
    if count > 1:
        return f"{count} AMD GPUs are here, but mloptimizer neither uses nor reads them"
    return "an AMD GPU is here, but mloptimizer neither uses nor reads it" if count else ""


def _is_amd_gpu(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text(encoding="ascii").strip().lower() for name in ("vendor", "class"))
    except (OSError, ValueError):
        return False
    return vendor == _AMD and kind.startswith((_DISPLAYS, _ACCELERATORS))
