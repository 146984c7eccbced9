"""Describes a machine: its processors, memory and GPUs, and the versions of the software that trains on it.

What the system does not report is None, and nothing here raises. One MB is 2**20 bytes.
"""

import contextlib
import itertools
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mloptimizer.core.nouns import Slot, to_json
from mloptimizer.core.versions import installed_version
from mloptimizer.hardware.read.machine import list_cpus, total_memory_mb
from mloptimizer.hardware.read.nvml import Gpu, cuda_version, list_gpus


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def cpu_model() -> str:
    """Return the processor's name as its maker writes it, or its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read_machine_facts() -> dict[str, Any]:
    """Return what this machine is, as plain data: the same on every call until its hardware or software changes.

    ``cores`` are the logical cores and ``gpus`` the GPUs that this process may use; equal GPUs are one entry with
    their ``count``. ``cuda`` is the newest version that the driver can run.
    """
    return {
        "host": host_name(),
        "cpu": cpu_model(),
        "cores": len(list_cpus()),
        "ram_mb": total_memory_mb(),
        "gpus": group_gpus(list_gpus()),
        "python": platform.python_version(),
        "tensorflow": installed_version("tensorflow"),
        "keras": installed_version("keras"),
        "cuda": cuda_version(),
    }


def remember_machines(recorded: Mapping[str, Any], now_utc: str) -> dict[str, Any]:
    """Return the facts ``machine``, this one and since when, and ``earlier_machines``, oldest first.

    Args:
        recorded: the study's facts so far. A study that resumes on another machine, or on this one after a change such
            as a new driver, keeps the facts of its earlier ones.
    """
    machine, before, earlier = read_machine_facts(), recorded.get("machine"), recorded.get("earlier_machines")
    kept = list(earlier) if isinstance(earlier, list) else []
    if isinstance(before, Mapping):
        if {name: value for name, value in before.items() if name != "since_utc"} == machine:
            return {"machine": before, "earlier_machines": kept}
        kept.append(before)
    return {"machine": {**machine, "since_utc": now_utc}, "earlier_machines": kept}


def group_gpus(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """Return an entry for each run of equal GPUs, in the order of their numbers."""
    described = ({"name": gpu.name, "memory_mb": gpu.memory_mb, "driver": gpu.driver} for gpu in gpus)
    return [{**facts, "count": len(list(equal))} for facts, equal in itertools.groupby(described)]


def slot_facts(slot: Slot) -> dict[str, Any]:
    """Return the slot as JSON data, with this machine's name if it is on this one."""
    return {**to_json(slot), "host": host_name() if slot.host == "localhost" else slot.host}


def describe_machine(facts: Mapping[str, Any]) -> str:
    """Return the machine in a few words: its GPUs, or else its cores and processor."""
    listed = facts.get("gpus")
    gpus = [gpu for gpu in (listed if isinstance(listed, list) else ()) if isinstance(gpu, Mapping)]
    if gpus:
        return " + ".join(f"{gpu.get('count', 1)} × {gpu.get('name') or 'an unknown GPU'}" for gpu in gpus)
    return f"{facts.get('cores') or '?'} cores of {facts.get('cpu') or 'an unknown processor'}"
