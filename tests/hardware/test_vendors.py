"""Other vendors' GPUs, in a folder as Linux makes it."""

from pathlib import Path

import pytest

from mloptimizer.hardware.read.gpu_readings import GPU_COLUMNS
from mloptimizer.hardware.read.vendors import VENDORS, Amd, Apple, Nvidia, describe_unused, open_gpu

CARD, ACCELERATOR, BRIDGE = "0x030000", "0x120000", "0x060400"


def pci(root: Path, **devices: tuple[str, str]) -> Path:
    for number, (vendor, kind) in enumerate(devices.values()):
        folder = root / f"0000:{number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    return root


def test_amds_gpus_are_told_from_its_other_devices_and_from_other_vendors(tmp_path: Path) -> None:
    amd = Amd(
        pci(
            tmp_path,
            bridge=("0x1002", BRIDGE),
            card=("0x1002", CARD),
            instinct=("0x1002", ACCELERATOR),
            other=("0x10de", CARD),
        )
    )
    assert [gpu.uuid for gpu in amd.list_gpus()] == ["AMD-0000:01:00.0", "AMD-0000:02:00.0"]
    assert describe_unused([amd]) == "2 AMD GPUs are here, but mloptimizer neither uses nor reads them"


@pytest.mark.parametrize(
    ("system", "processor", "count"), [("darwin", "arm64", 1), ("darwin", "x86_64", 0), ("linux", "arm64", 0)]
)
def test_apples_own_processors_have_a_gpu(system: str, processor: str, count: int) -> None:
    apple = Apple(system, processor)
    assert len(apple.list_gpus()) == count
    assert describe_unused([apple]) == (
        "an Apple GPU is here, but mloptimizer neither uses nor reads it" if count else ""
    )


def test_a_machine_without_other_gpus_has_nothing_to_tell(tmp_path: Path) -> None:
    (tmp_path / "0000:00:00.0").mkdir()  # without the files
    assert describe_unused([Amd(tmp_path / "nowhere"), Amd(tmp_path), Apple("linux", "x86_64")]) == ""


def test_a_gpu_that_nothing_reads_has_empty_cells() -> None:
    assert [vendor.name for vendor in VENDORS] == ["NVIDIA", "AMD", "Apple"]
    assert all(vendor.open_gpu("AMD-0") is None for vendor in VENDORS)
    gpu = open_gpu("AMD-0000:01:00.0")
    assert list(gpu.read((), 0.0)) == [None] * len(GPU_COLUMNS)
    gpu.close()


def test_nvidias_gpus_are_read_even_where_they_may_come_later() -> None:
    gpu = Nvidia().open_gpu("GPU-00000000-0000-0000-0000-000000000000")
    assert gpu is not None
    assert list(gpu.read((), 0.0)) == [None] * len(GPU_COLUMNS)
    gpu.close()
