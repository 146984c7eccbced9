"""Which GPUs there are, and what is in use of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mloptimizer.hardware.read.nvml import Gpu, visible_gpus
from tests.hardware.nvml.stand_in import MB, NvmlStandIn, gpu_uuid, mig_uuid, partitioned

ROOT = Path(__file__).parents[2]

LIST_GPUS = """
import dataclasses, json
from mloptimizer.hardware.read.nvml import list_gpus
print(json.dumps([dataclasses.asdict(gpu) for gpu in list_gpus()]))
"""
LIST_UUIDS = """
import json
from mloptimizer.hardware.read.nvml import list_gpus
print(json.dumps([gpu.uuid for gpu in list_gpus()]))
"""


def uuids(*indices: int) -> list[str]:
    return [gpu_uuid(index) for index in indices]


def test_a_gpu_is_listed_with_all_that_its_driver_reports(nvml: NvmlStandIn) -> None:
    assert nvml.run(LIST_GPUS)[3] == {
        "index": 3,
        "uuid": gpu_uuid(3),
        "name": "NVIDIA Stand-in",
        "memory_mb": 81920,
        "compute_capability": [9, 0],
        "driver": "580.95.05",
        "mig": False,
        "parent": None,
        "instance": None,
    }


def test_what_the_driver_does_not_report_is_none(nvml: NvmlStandIn) -> None:
    functions = ("Name", "CudaComputeCapability", "MigMode", "MemoryInfo", "MemoryInfo_v2")
    nvml.set(gpus=1, **{f"error__nvmlDeviceGet{name}": 3 for name in functions}, error__nvmlSystemGetDriverVersion=999)
    (gpu,) = nvml.run(LIST_GPUS)
    assert gpu.pop("uuid") == gpu_uuid(0)
    untold = ("name", "compute_capability", "driver", "mig", "parent", "instance")
    assert gpu == {"index": 0, "memory_mb": 0} | dict.fromkeys(untold)


def test_a_partitioned_gpu_is_listed_as_its_instances(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=2, **partitioned(1, 9728, 19968))
    whole, first, second = nvml.run(LIST_GPUS)
    assert (whole["uuid"], whole["mig"]) == (gpu_uuid(0), False)
    assert (first["uuid"], first["memory_mb"], first["instance"]) == (mig_uuid(1, 1), 9728, [7, 0])
    assert second == first | {
        "uuid": mig_uuid(1, 2), "name": "Stand-in MIG 19968", "memory_mb": 19968, "instance": [8, 0]
    }  # fmt: skip
    assert (second["index"], second["mig"], second["parent"]) == (1, True, gpu_uuid(1))
    assert second["compute_capability"] == [9, 0]


def test_a_gpu_partitioned_into_nothing_is_left_out(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=2, gpu__1__mig=1)
    assert nvml.run(LIST_UUIDS) == uuids(0)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (f"{mig_uuid(1, 2)},{mig_uuid(1, 1)}", ["1.8.0", "1.7.0"]),
        (f"MIG-{gpu_uuid(1)}/8/0", ["1.8.0"]),  # as drivers before 470 named them
        (f"MIG-{gpu_uuid(1)}/9/0,0", []),
        (f"{mig_uuid(1, 1)[:12]},0", ["1.7.0", "0"]),
        ("MIG-a1", []),  # the beginning of several
        ("1,0", ["1.7.0", "0"]),  # CUDA takes the first instance
        (gpu_uuid(1), ["1.7.0"]),
    ],
)
def test_cuda_visible_devices_names_instances_too(visible: str, expected: list[str]) -> None:
    gpus = [
        Gpu(0, gpu_uuid(0), None, 0, None, None, mig=False),
        *(
            Gpu(1, mig_uuid(1, place), None, 0, None, None, True, gpu_uuid(1), (6 + place, 0))
            for place in (1, 2)
        ),
    ]  # fmt: skip
    assert [gpu.label for gpu in visible_gpus(gpus, visible)] == expected


def test_the_use_of_an_instance_is_its_own(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=1, **partitioned(0, 8000, 4000), gpu__0__mig__2__processes="7:64", gpu__0__processes="7:64 8:64")
    code = (
        "import json; from mloptimizer.hardware.read.nvml import GpuUseReader; reader = GpuUseReader()\n"
        "uses = [reader.read([mig_uuid(0, place)]) for place in (1, 2)]; reader.close()\n"
        "print(json.dumps([[sorted(use.pids), use.used_mb] for use in uses]))"
    )
    assert nvml.run(code) == [[[], 2000.0], [[7], 1000.0]]


def test_a_lost_gpu_is_left_out_and_the_others_stay(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=3, error__1__all=15)
    assert nvml.run(LIST_UUIDS) == uuids(0, 2)


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetUUID"])
def test_a_library_that_fails_has_no_gpus(nvml: NvmlStandIn, function: str) -> None:
    nvml.set(**{f"error__{function}": 9})
    assert nvml.run(LIST_UUIDS) == []


def test_a_machine_without_the_library_has_no_gpus(nvml: NvmlStandIn, tmp_path: Path) -> None:
    without = NvmlStandIn(tmp_path / "nowhere" / "libnvidia-ml.so.1", nvml.state)
    broken = tmp_path / "broken" / "libnvidia-ml.so.1"
    broken.parent.mkdir()
    broken.write_text("no library")
    assert NvmlStandIn(broken, nvml.state).run(LIST_UUIDS) == []
    if not _has_real_library():
        assert without.run(LIST_UUIDS) == []


def _has_real_library() -> bool:
    code = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", (2, 0)),
        (" 5 , 1 ", (5, 1)),
        (f"{gpu_uuid(3)},{gpu_uuid(1)}", (3, 1)),
        ("GPU-a7,4", (7, 4)),  # the beginning of a UUID
        ("1,99,2", (1,)),  # CUDA stops at the first entry that names no GPU
        ("1,-1,2", (1,)),
        ("GPU-a", ()),  # the beginning of several
        ("MIG-1", ()),
        ("-1", ()),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_chooses_and_orders_the_gpus(visible: str, expected: tuple[int, ...]) -> None:
    gpus = [Gpu(index, gpu_uuid(index), None, 0, None, None, None) for index in range(8)]
    assert visible_gpus(gpus, visible) == [gpus[index] for index in expected]


@pytest.mark.parametrize(("visible", "expected"), [("6,0", (6, 0)), (gpu_uuid(4), (4,)), ("", ())])
def test_the_persons_cuda_visible_devices_is_respected(
    nvml: NvmlStandIn, visible: str, expected: tuple[int, ...]
) -> None:
    assert nvml.run(LIST_UUIDS, CUDA_VISIBLE_DEVICES=visible) == uuids(*expected)


def test_without_cuda_visible_devices_all_gpus_are_listed(nvml: NvmlStandIn) -> None:
    assert nvml.run(LIST_UUIDS) == uuids(*range(8))


def test_the_use_of_several_gpus_is_added_up(nvml: NvmlStandIn) -> None:
    nvml.set(gpus=3, gpu__0__processes="7:64 9:64", gpu__2__processes="8:64", gpu__2__memory_used=100 * MB)
    code = (
        "import json; from mloptimizer.hardware.read.nvml import GpuUseReader; reader = GpuUseReader()\n"
        "def read(*gpus):\n"
        "    use = reader.read([gpu_uuid(gpu) for gpu in gpus]); return use and [sorted(use.pids), use.used_mb]\n"
        "both, unknown = read(0, 2), read(0, 5); reader.close(); reader.close()\n"
        "print(json.dumps([both, unknown, read(1)]))"
    )
    assert nvml.run(code) == [[[7, 8, 9], 2148.0], None, [[], 2048.0]]
    nvml.set(error__nvmlInitWithFlags=999)
    assert nvml.run(code) == [None, None, None]


def test_a_slot_is_idle_again_when_nvml_no_longer_lists_its_worker(nvml: NvmlStandIn, tmp_path: Path) -> None:
    nvml.set(gpus=1)
    code = f"""
import json
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.core.nouns import Slot
from tests.engines.contract import act, bare_plan, collect
from tests.engines.test_process_engine import pid_of_waiting
slot = Slot("gpu", gpu_ids=(gpu_uuid(0),))
engine = ProcessEngine([slot], act, "forkserver")
engine.start(bare_plan(0, {{"act": "wait"}}, {str(tmp_path)!r}), slot)
set_values(gpu__0__processes=f"{{pid_of_waiting(engine)}}:64", gpu__0__memory_used=9000 * 2**20)
engine.stop_trial(0)
collect(engine, 1)
found = [(len(engine.idle_slots()), engine.releasing())]
set_values(gpu__0__processes=None)
engine.wait(60)
found.append((len(engine.idle_slots()), engine.releasing()))
engine.close()
print(json.dumps(found))
"""
    assert nvml.run(code, PYTHONPATH=str(ROOT)) == [[0, True], [1, False]]
