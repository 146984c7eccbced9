"""Other vendors' GPUs, in a folder as Linux makes it."""

from pathlib import Path

import pytest

from mloptimizer.hardware.read.vendors import describe_unused

CARD, ACCELERATOR, BRIDGE = "0x030000", "0x120000", "0x060400"


def pci(root: Path, *devices: tuple[str, str]) -> Path:
    for number, (vendor, kind) in enumerate(devices):
        folder = root / f"0000:{number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    return root


def test_amds_gpus_are_distinguished_from_its_other_devices_and_from_other_vendors(tmp_path: Path) -> None:
    devices = pci(tmp_path, ("0x1002", BRIDGE), ("0x1002", CARD), ("0x1002", ACCELERATOR), ("0x10de", CARD))
    assert describe_unused(devices, "linux", "x86_64").startswith("2 AMD GPUs ")


@pytest.mark.parametrize(
    ("system", "processor", "is_here"),
    [("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "arm64", False)],
)
def test_apples_own_processors_have_a_gpu(tmp_path: Path, system: str, processor: str, is_here: bool) -> None:
    assert ("Apple" in describe_unused(tmp_path, system, processor)) is is_here


def test_a_machine_without_other_gpus_has_nothing_to_report(tmp_path: Path) -> None:
    (tmp_path / "0000:00:00.0").mkdir()  # without the files
    assert describe_unused(tmp_path, "linux", "x86_64") == ""
    assert describe_unused(tmp_path / "nowhere", "linux", "x86_64") == ""
