"""Builds the stand-in for libnvidia-ml.so.1, sets what its GPUs report, and runs Python code on it.

A process loads the library once and for good, so the code runs in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("nvml.c")
MB = 2**20

# What every GPU of the stand-in reports until a test says otherwise, in NVML's own units.
VALUES: dict[str, object] = {
    "gpu.driver": "580.95.05",
    "gpu.cuda_driver": 13000,
    "gpu.name": "NVIDIA Stand-in",
    "gpu.compute_capability_tenths": 90,
    "gpu.mig": 0,
    "gpu.utilization": 61,
    "gpu.memory_utilization": 37,
    "gpu.memory_total": 81920 * MB,
    "gpu.memory_used": 2048 * MB,
    "gpu.memory_reserved": 512 * MB,
    "gpu.power_mw": 250_000,
    "gpu.swing_mw": 0,
    "gpu.period_s": 0,
    "gpu.power_limit_mw": 700_000,
    "gpu.temperature": 55,
    "gpu.clocks_event_reasons": 4,
    "gpu.max_sm_clock_mhz": 2100,
    "gpu.sm_clock_mhz": 1980,
    "gpu.memory_clock_mhz": 2619,
    "gpu.pcie_rx_kb_s": 3 * 1024,
    "gpu.pcie_tx_kb_s": 5 * 1024,
}


def gpu_uuid(index: int) -> str:
    """Return the UUID of the stand-in's GPU with this index."""
    return f"GPU-{index + 0xA0:x}000000-1111-2222-3333-444444444444"


def partitioned(gpu: int, *memory_mb: int) -> dict[str, object]:
    """Return the lines that partition a GPU into one instance for each of these memories, for `NvmlStandIn.set`.

    They take the places 1, 2 and so on of the GPU, the GPU instances 7, 8 and so on, and their compute instance 0.
    """
    lines: dict[str, object] = {f"gpu__{gpu}__mig": 1}
    for place, memory in enumerate(memory_mb, start=1):
        entries = {"uuid": mig_uuid(gpu, place), "gpu_instance": 6 + place, "compute_instance": 0}
        entries |= {"memory_total": memory * MB, "memory_used": memory * MB // 4, "name": f"Stand-in MIG {memory}"}
        lines |= {f"gpu__{gpu}__mig__{place}__{name}": value for name, value in entries.items()}
    return lines


def mig_uuid(gpu: int, place: int) -> str:
    """Return the UUID of the stand-in's instance at this place of the GPU."""
    return f"MIG-{gpu + 0xA0:x}{place:06x}-5555-6666-7777-888888888888"


def build_nvml_stand_in(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compile the library into the folder and return its path.

    Args:
        folder: where libnvidia-ml.so.1 goes; LD_LIBRARY_PATH is to name it.
        without: functions that the library is to lack, as an older driver does.

    Raises:
        RuntimeError: there is no C compiler, or it failed.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise RuntimeError("the tests of the hardware log need a C compiler: install gcc or clang, or set CC.")
    library = folder / "libnvidia-ml.so.1"
    absent = [f"-D{name}=absent_{name}" for name in without]
    soname = ["-Wl,-soname,libnvidia-ml.so.1"] if sys.platform == "linux" else []
    command = [compiler, "-O2", "-Wall", "-shared", "-fPIC", *absent, *soname, "-o", str(library), str(SOURCE), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{SOURCE} did not compile:\n{done.stderr}")
    return library


@dataclass
class NvmlStandIn:
    """The library with a state of its own: `set` changes what it reports, also while a process uses it."""

    library: Path
    state: Path
    values: dict[str, object] = field(default_factory=lambda: dict(VALUES))

    def set(self, **values: object) -> None:
        """Change lines of the state; ``__`` stands for a dot: ``set(gpus=8, gpu__3__temperature=80)``. None removes."""
        self.values.update({name.replace("__", "."): value for name, value in values.items()})
        uuids = {f"gpu.{index}.uuid": gpu_uuid(index) for index in range(int(str(self.values.get("gpus", 0))))}
        lines = [f"{name}={value}\n" for name, value in {**uuids, **self.values}.items() if value is not None]
        fresh = self.state.with_suffix(".new")
        fresh.write_text("".join(lines))
        fresh.replace(self.state)

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process that is to find the library and its state."""
        own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        folders = os.pathsep.join(filter(None, [str(self.library.parent), own.get(name)]))
        return {**own, name: folders, "NVML_STAND_IN_STATE": str(self.state), **variables}

    def run(self, code: str, **variables: str) -> Any:
        """Run the code in a new Python process on the library; return what its last line printed, read as JSON.

        In the code, ``set_values(now_s=2.5)`` changes values from inside; ``gpu_uuid`` is there too.
        """
        prelude = (
            f"import sys; sys.path.insert(0, {str(SOURCE.parents[3])!r})\n"
            "from pathlib import Path\n"
            "from tests.hardware.nvml.stand_in import NvmlStandIn, gpu_uuid, mig_uuid\n"
            f"set_values = NvmlStandIn(Path(), Path({str(self.state)!r}), {self.values!r}).set\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prelude + code],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"the code on the stand-in failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])
