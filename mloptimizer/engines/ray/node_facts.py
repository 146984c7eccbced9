"""Asks every node of a cluster about itself: one small task on each changes nothing and imports no TensorFlow."""

import os
import platform
import socket
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mloptimizer.core.check import NodeFacts
from mloptimizer.core.versions import installed_version
from mloptimizer.data.library import list_datasets
from mloptimizer.engines.ray.ray_internals import list_leaving
from mloptimizer.hardware.read.nvml import list_gpus

PACKAGES = ("mloptimizer", "tensorflow", "keras", "ray")
_ANSWER_SECONDS = 60.0
_PORT_SECONDS = 3.0


def versions() -> dict[str, str]:
    """Return the versions of the installed packages here, and Python's, by name."""
    found = {name: version for name in PACKAGES if (version := installed_version(name))}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


def _look() -> dict[str, Any]:
    return {
        "time": time.time(),
        "versions": versions(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        "data": tuple(name for name, place in list_datasets().items() if place),
        "gpus_seen": tuple(f"{gpu.name or 'GPU'}, {gpu.memory_mb} MB" for gpu in list_gpus()),
    }


def examine() -> list[NodeFacts]:
    """Return the facts about each node of the cluster that this process is connected to."""
    leaving, nodes = list_leaving(), [node for node in ray.nodes() if node["Alive"]]
    places = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes)
    look = ray.remote(_look)
    tasks = [look.options(num_cpus=0, max_retries=0, scheduling_strategy=place) for place in places]
    first = [task.remote() for task in tasks]  # starts the workers, so that reading the clocks takes no time
    ray.wait(first, num_returns=len(first), timeout=_ANSWER_SECONDS)
    return [_facts(node, task, node["NodeID"] in leaving) for node, task in zip(nodes, tasks, strict=True)]


def _facts(node: dict[str, Any], task: Any, leaves: bool) -> NodeFacts:
    has, host = node["Resources"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    ports = tuple(port for port in (node["NodeManagerPort"], node["ObjectManagerPort"]) if not _opens(node, port))
    known: dict[str, Any] = {"cpus": has.get("CPU", 0.0), "gpus": has.get("GPU", 0.0), "closed_ports": ports}
    asked = time.time()
    try:
        answer = ray.get(task.remote(), timeout=_ANSWER_SECONDS)
    except RayError:
        return NodeFacts(host, False, leaves, **known)
    there = answer.pop("time")  # read between `asked` and now
    skew = there - min(max(there, asked), time.time())
    return NodeFacts(host, True, leaves, skew_seconds=skew, **known, **answer)


def _opens(node: dict[str, Any], port: int) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], port), _PORT_SECONDS):
            return True
    except OSError:
        return False
