"""Trials share a GPU as the real NVML client reports it, over a stand-in for NVIDIA's library; nothing is trained."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.hardware.nvml.stand_in import MB, NvmlStandIn, build_nvml_stand_in

SEARCH = """
import json
from tests.hardware.packed_search import run
print(json.dumps(run(set_values, {slowdown}, lambda gpu: {enough})))
"""


@pytest.fixture(scope="module")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> NvmlStandIn:
    """One GPU of 16,000 MB, of which 500 MB are in use, and the driver keeps 400 MB for itself."""
    stand_in = NvmlStandIn(nvml_library, tmp_path / "nvml-state.txt")
    stand_in.set(gpus=1, gpu__memory_total=16_000 * MB, gpu__memory_reserved=400 * MB)
    return stand_in


def search(nvml: NvmlStandIn, slowdown: float, enough: str) -> dict[str, Any]:
    found = nvml.run(SEARCH.format(slowdown=slowdown, enough=enough))
    assert (found["ended"], found["outcomes"]) == ([0, 1, 2], ["completed"]), "every trial ends once"
    assert found["slots"] == ["gpu0", "gpu0b", "gpu0c", "gpu0d"]
    return found


@pytest.mark.slow
def test_a_trial_starts_beside_another_when_nvml_reports_room_for_it(nvml: NvmlStandIn) -> None:
    found = search(nvml, 1.2, "gpu.log().count('2 on the GPU') > 1")
    assert (found["most"], found["again"]) == (2, [])
    first, judged = found["log"].splitlines()[:2]
    assert all(text in first for text in ("30 %", "trial 0", "12,100 MB", "3,600"))
    assert " images/s " in judged and "trial 1" in judged
    on_gpu = [row["trials_on_gpu"] for row in csv.DictReader(found["rows"])]
    assert (on_gpu[0], set(on_gpu)) == ("1", {"1", "2"})


@pytest.mark.slow
def test_no_trial_starts_beside_another_when_the_memory_is_short(nvml: NvmlStandIn) -> None:
    nvml.set(gpu__memory_total=7000 * MB)
    found = search(nvml, 1.0, "len(gpu.rows()) > 30")
    assert found["most"] == 1
    assert "3,100 MB" in found["log"] and "3,600" in found["log"]


@pytest.mark.slow
def test_sharing_is_taken_back_when_the_pace_falls(nvml: NvmlStandIn) -> None:
    found = search(nvml, 4.0, "bool(gpu.again)")
    assert [line.partition(": ")[0] for line in found["again"]] == ["trial 1"]
    assert [line.partition("trials per GPU: ")[2][0] for line in found["log"].splitlines()] == ["2", "1"]
