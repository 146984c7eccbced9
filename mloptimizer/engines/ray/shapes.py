"""Decides how much of a Ray cluster one trial takes, and how many may run at a time.

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
from mloptimizer.engines.slots import MEMORY_PER_WORKER_MB

_MB = 2**20
_CORES_SHARED_BY_SMALL_MACHINES = 4  # as on one machine: up to here a core each, above two
_ALWAYS_FITS = 1e-6


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, with what it declares, whether that is in use or not."""

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
    memory_mb: int  # 0: whatever there is

    def count(self, node: Node) -> int:
        """Return how many such trials the machine holds when nothing else runs there."""
        shares = [(node.gpus, self.gpus), (node.cpus, self.cpus), (node.memory_mb, self.memory_mb)]
        return math.floor(min(has / takes for has, takes in shares if takes) + _ALWAYS_FITS)

    def describe(self) -> str:
        """Return it in words."""
        parts = [f"{self.gpus} GPUs"] if self.gpus else []
        parts.append(f"{self.cpus:g} CPUs")
        parts += [f"{self.memory_mb} MB"] if self.memory_mb else []
        return ", ".join(parts)


def plan_need(nodes: Sequence[Node], trials: int, settings: Settings) -> tuple[Need, Decision]:
    """Return what each of so many trials takes, and the choice with its reason.

    Raises:
        UsageError: no machine of the cluster has that much; says what it has.
    """
    gpus, reason = _count_gpus(nodes, trials, settings)
    able = [node for node in nodes if node.gpus >= gpus]
    if not able or not any(node.cpus for node in able):
        most = max((int(node.gpus) for node in nodes), default=0)
        possible = f"1 to {most}, or auto" if most else "auto"
        raise UsageError(
            f"gpus_per_trial = {gpus}: no node of the Ray cluster has so many. It has {describe_nodes(nodes)}. "
            f"Possible: {possible}."
        )
    able = [node for node in able if node.cpus]
    memory_mb = MEMORY_PER_WORKER_MB if settings.workers == "auto" else 0
    need = Need(gpus, _count_cpus(able, gpus, settings), memory_mb)
    if not any(need.count(node) for node in nodes):
        raise UsageError(
            f"engine = ray: a trial takes {need.describe()}, and no node of the cluster has that. "
            f"It has {describe_nodes(nodes)}. Possible: --workers N asks for no memory."
        )
    here = sum(need.count(node) for node in nodes)
    return need, Decision(None, "slots", f"{need.describe()} each", f"{reason}; the cluster holds {here} such now")


def most_slots(trials: int, settings: Settings) -> int:
    """Return how many trials may run at a time, however large the cluster is."""
    return trials if settings.workers == "auto" else min(trials, settings.workers)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Return in words what machines there are, alike ones together."""
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
    size = min(total // trials, *machines)
    return size, f"{trials} trials are fewer than {total} GPUs, and each stays within one node"


def _count_cpus(able: Sequence[Node], gpus: int, settings: Settings) -> float:
    """Return a trial's share of the cores: with GPUs, as many as every machine has for each of its trials."""
    if gpus:
        shares = [node.cpus / (node.gpus // gpus) for node in able]
        least = min(shares)
        return float(math.floor(least)) if least >= 1 else math.floor(100 * least) / 100
    smallest = min(node.cpus for node in able)
    if settings.workers != "auto":
        return float(max(1, min(smallest, sum(node.cpus for node in able) // settings.workers)))
    return 1.0 if smallest <= _CORES_SHARED_BY_SMALL_MACHINES else 2.0
