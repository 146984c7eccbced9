"""The stand-in for NVIDIA's library, built once, with 8 GPUs for every test."""

from pathlib import Path

import pytest

from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> NvmlStandIn:
    stand_in = NvmlStandIn(nvml_library, tmp_path / "nvml-state.txt")
    stand_in.set(gpus=8)
    return stand_in
