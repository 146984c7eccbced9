"""Decides how much of a Ray cluster one trial takes, and how many trials may run at a time.

A trial stays within one machine. Nothing here imports Ray.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Decision
from mloptimizer.core.words import counted
from mloptimizer.engines.slots import MEMORY_PER_WORKER_MB, cores_per_trial


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, with the resources that it declares, in use or not."""

    id: str
    host: str
    cpus: float
    gpus: float
    memory_mb: float


@dataclass(frozen=True)
class Need:
    """What one trial takes of one machine."""

    gpus: int
    cpus: float
    memory_mb: int  # 0: no reservation

    def count(self, node: Node) -> int:
        """Return how many such trials fit on the machine when nothing else runs there."""
        shares = [(node.gpus, self.gpus), (node.cpus, self.cpus), (node.memory_mb, self.memory_mb)]
        return math.floor(min(has / takes for has, takes in shares if takes) + 1e-6)  # cores can be fractions

    def describe(self) -> str:
        parts = [f"{self.gpus} GPUs"] if self.gpus else []
        parts += [f"{self.cpus:g} CPUs", *([f"{self.memory_mb} MB"] if self.memory_mb else [])]
        return ", ".join(parts)


def plan_need(nodes: Sequence[Node], trials: int, settings: Settings) -> tuple[Need, Decision]:
    """Return what each of this many trials takes, and the choice with its reason.

    Raises:
        UsageError: no machine of the cluster has that much; the error says what the cluster has.
    """
    gpus, reason = _count_gpus(nodes, trials, settings)
    able = [node for node in nodes if node.gpus >= gpus and node.cpus]
    there = f"It has {describe_nodes(nodes)}."
    if not able:
        most = max((int(node.gpus) for node in nodes), default=0)
        possible = f"1 to {most}, or auto" if most else "auto"
        what = f"gpus_per_trial = {gpus}: no node of the Ray cluster has that many"
        raise UsageError(f"{what}. {there} Possible: {possible}.")
    memory_mb = MEMORY_PER_WORKER_MB if settings.workers == "auto" else 0
    need = Need(gpus, _count_cpus(able, gpus, settings), memory_mb)
    fit = sum(need.count(node) for node in nodes)
    if not fit:
        what = f"engine = ray: a trial needs {need.describe()}, and no node of the cluster has that"
        raise UsageError(f"{what}. {there} Possible: --workers N, which reserves no memory.")
    return need, Decision(None, "slots", f"{need.describe()} each", f"{reason}; {fit} fit on the cluster now")


def most_slots(trials: int, settings: Settings) -> int:
    """Return how many trials may run at a time, however large the cluster is."""
    return trials if settings.workers == "auto" else min(trials, settings.workers)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Return a list of the machines as text, equal ones together."""
    kinds = Counter((node.cpus, node.gpus, round(node.memory_mb / 1024)) for node in nodes)
    parts = [
        f"{counted(count, 'node')} of {cpus:g} CPUs, {gpus:g} GPUs and {memory} GB"
        for (cpus, gpus, memory), count in kinds.items()
    ]
    return "; ".join(parts) or "no nodes"


def _count_gpus(nodes: Sequence[Node], trials: int, settings: Settings) -> tuple[int, str]:
    if settings.gpus_per_trial != "auto":
        return settings.gpus_per_trial, "setting gpus_per_trial"
    machines = [int(node.gpus) for node in nodes if node.gpus >= 1]
    if not machines:
        return 0, "the cluster declares no GPU"
    total = sum(machines)
    if trials >= total:
        return 1, f"{trials} trials keep {total} GPUs busy with one GPU each"
    return min(total // trials, *machines), f"{trials} trials are fewer than {total} GPUs; each stays within one node"


def _count_cpus(able: Sequence[Node], gpus: int, settings: Settings) -> float:
    """Return a trial's share of the cores; with GPUs, what every machine has for each of its trials."""
    if gpus:
        least = min(node.cpus / (node.gpus // gpus) for node in able)
        return float(math.floor(least)) if least >= 1 else math.floor(100 * least) / 100
    smallest = min(node.cpus for node in able)
    if settings.workers != "auto":
        return float(max(1, min(smallest, sum(node.cpus for node in able) // settings.workers)))
    return float(cores_per_trial(smallest))
