"""Looks at every node of a cluster, and says what a search would stumble over there and what to do.

Nothing is changed, and TensorFlow is imported nowhere; one small task runs on each node.
"""

import os
import platform
import socket
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mloptimizer.app.doctor import installed_versions
from mloptimizer.app.probe_checks import Check
from mloptimizer.data.library import list_datasets
from mloptimizer.engines.ray.cluster import default_token, list_leaving
from mloptimizer.hardware.read.nvml import list_gpus

PACKAGES = ("mloptimizer", "tensorflow", "keras", "ray")
_ANSWER_SECONDS = 60.0
_PORT_SECONDS = 3.0
_SKEW_SECONDS = 2.0  # rows of a hardware log and epochs are compared by their times


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    answers: bool
    leaves: bool = False
    cpus: float = 0.0
    gpus: float = 0.0  # as declared
    gpus_seen: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # with Python's
    skew_seconds: float = 0.0  # its clock less ours
    auth_mode: str = ""
    data: tuple[str, ...] = ()
    closed_ports: tuple[int, ...] = ()  # that this machine cannot reach


def versions() -> dict[str, str]:
    """Return the versions here, by package, with Python's; what is not installed is left out."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), **installed_versions(PACKAGES)}


def _look() -> dict[str, Any]:
    return {
        "time": time.time(),
        "versions": versions(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        "data": tuple(dataset.name for dataset in list_datasets() if dataset.found),
        "gpus_seen": tuple(f"{gpu.name or 'GPU'}, {gpu.memory_mb} MB" for gpu in list_gpus()),
    }


def examine() -> list[NodeFacts]:
    """Return what there is to know of each node of the cluster that this process is connected to."""
    leaving, nodes = list_leaving(), [node for node in ray.nodes() if node["Alive"]]
    tasks = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        tasks.append(ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=where))
    first = [task.remote() for task in tasks]  # starts the workers, so that clocks are asked in no time
    ray.wait(first, num_returns=len(first), timeout=_ANSWER_SECONDS)
    return [_facts(node, task, node["NodeID"] in leaving) for node, task in zip(nodes, tasks, strict=True)]


def _facts(node: dict[str, Any], task: Any, leaves: bool) -> NodeFacts:
    has, host = node["Resources"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    ports = tuple(port for port in (node["NodeManagerPort"], node["ObjectManagerPort"]) if not _opens(node, port))
    known: dict[str, Any] = {"cpus": has.get("CPU", 0.0), "gpus": has.get("GPU", 0.0), "closed_ports": ports}
    begun = time.time()
    try:
        said = ray.get(task.remote(), timeout=_ANSWER_SECONDS)
    except RayError:
        return NodeFacts(host, False, leaves, **known)
    then = said.pop("time")
    now = time.time()  # the task ran at some time between
    skew = then - min(max(then, begun), now)
    return NodeFacts(host, True, leaves, skew_seconds=skew, **known, **said)


def _opens(node: dict[str, Any], port: int) -> bool:
    try:
        with socket.create_connection((node["NodeManagerAddress"], port), _PORT_SECONDS):
            return True
    except OSError:
        return False


def judge(nodes: Sequence[NodeFacts], here: dict[str, str]) -> list[Check]:
    """Return what is right and wrong about the nodes, for a driver with these versions."""
    return [
        _check_nodes(nodes),
        check_token(),
        _list_faults("authentication", nodes, lambda n: n.auth_mode != "token" and (n.auth_mode or "none"),
                     "token everywhere", "set RAY_AUTH_MODE=token before `ray start` on each node"),
        _list_faults("versions", nodes, lambda node: _differences(node.versions, here),
                     ", ".join(f"{name} {version}" for name, version in here.items()),
                     "install the same on every node"),
        _list_faults("ports", nodes, lambda node: ", ".join(map(str, node.closed_ports)), "reachable from here",
                     "open these ports between the nodes and this machine; `ray start` can fix their numbers"),
        _list_faults("clocks", nodes, lambda n: abs(n.skew_seconds) > _SKEW_SECONDS and f"{n.skew_seconds:+.1f} s",
                     f"within {_SKEW_SECONDS:g} s of this machine", "run a time service such as chrony on the nodes"),
        _list_faults("GPUs", nodes, _missing_gpus, _count_gpus(nodes),
                     "install NVIDIA's driver there, or start Ray with --num-gpus as many as there are"),
        _data(nodes),
    ]  # fmt: skip


def _list_faults(name: str, nodes: Sequence[NodeFacts], find: Any, fine: str, advice: str) -> Check:
    faults = [f"{node.host}: {fault}" for node in nodes if node.answers and (fault := find(node))]
    return Check(name, False, "; ".join(faults), advice) if faults else Check(name, True, fine)


def _check_nodes(nodes: Sequence[NodeFacts]) -> Check:
    silent = [node.host for node in nodes if not node.answers]
    leaving = [node.host for node in nodes if node.leaves]
    found = f"{len(nodes)} alive"
    if silent:
        advice = "look into /tmp/ray/session_latest/logs there; is mloptimizer installed for its Python?"
        return Check("nodes", False, f"{found}; no answer from {', '.join(silent)}", advice)
    return Check(
        "nodes", None if leaving else True, found + (f"; about to leave: {', '.join(leaving)}" * bool(leaving))
    )


def check_token() -> Check:
    """Return whether this machine has a token, and keeps it to itself."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return Check("token", None, "authentication is off: whoever reaches the cluster may run anything on it",
                     "set RAY_AUTH_MODE=token on every node")  # fmt: skip
    if "RAY_AUTH_TOKEN" in os.environ:
        return Check("token", True, "in RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default_token()))
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Check("token", False, f"{path}: {error.strerror}", "ray get-auth-token --generate, then copy it to all")
    if mode & 0o077:
        return Check("token", False, f"{path}: others may read it (mode {mode:o})", f"chmod 600 {path}")
    return Check("token", True, f"{path}, mode {mode:o}")


def _differences(there: dict[str, str], here: dict[str, str]) -> str:
    names = [name for name in here if there.get(name) != here[name]]
    return ", ".join(f"{name} {there.get(name, 'missing')} instead of {here[name]}" for name in names)


def _missing_gpus(node: NodeFacts) -> str:
    return f"{node.gpus:g} declared, {len(node.gpus_seen)} seen" if node.gpus > len(node.gpus_seen) else ""


def _count_gpus(nodes: Sequence[NodeFacts]) -> str:
    return f"{sum(len(node.gpus_seen) for node in nodes)} seen, as many as declared"


def _data(nodes: Sequence[NodeFacts]) -> Check:
    there = [set(node.data) for node in nodes if node.answers]
    everywhere = set.intersection(*there) if there else set[str]()
    found = f"on every node: {', '.join(sorted(everywhere)) or 'none'}"
    return Check("data sets", True, f"{found}; others are sent to a node once")
