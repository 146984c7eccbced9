"""Finds problems that a search would have on the nodes of a cluster, and says what to do."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mloptimizer.core.check import Check, NodeFacts
from mloptimizer.engines.ray.cluster import default_token

_SKEW_SECONDS = 2.0  # rows of a hardware log and epochs are compared by their times


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
        _list_faults("GPUs", nodes, _missing_gpus, f"{sum(len(n.gpus_seen) for n in nodes)} seen, as many as declared",
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
    leaves = f"; about to leave: {', '.join(leaving)}" if leaving else ""
    return Check("nodes", None if leaving else True, found + leaves)


def check_token() -> Check:
    """Return whether this machine has a token that nobody else can read."""
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


def _data(nodes: Sequence[NodeFacts]) -> Check:
    there = [set(node.data) for node in nodes if node.answers]
    everywhere = set.intersection(*there) if there else set[str]()
    found = f"on every node: {', '.join(sorted(everywhere)) or 'none'}"
    return Check("data sets", True, f"{found}; others are sent to a node once")
