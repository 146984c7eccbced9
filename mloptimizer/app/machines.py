"""Opens the machines that a search runs on, this one or a Ray cluster, and looks at those of a cluster."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check, NodeFacts
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Decision, Phase
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.process.fork_server import start_fork_server
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.engines.slots import plan_slots
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.read.main_memory import memory_percent
from mloptimizer.hardware.read.vendors import describe_unused
from mloptimizer.search.control import SearchRun
from mloptimizer.training.worker import PRELOAD, run_plan
from mloptimizer.tuning.gpus_per_trial import choose_gpus_per_trial
from mloptimizer.tuning.measurement import this_machine

if TYPE_CHECKING:
    from mloptimizer.engines.ray.shapes import Need


@dataclass(frozen=True)
class Machines:
    """What trials run on, as long as the search runs."""

    make_engine: Callable[[SearchRun, int, Phase], Engine]  # for so many trials of the phase
    memory_percent: Callable[[], float]  # share of their main memory in use, as far as the driver has to know, %


@contextlib.contextmanager
def open_machines(settings: Settings, tell: Callable[[str], None]) -> Iterator[Machines]:
    """Let trials run meanwhile.

    Args:
        tell: takes a line for the person.

    Raises:
        UsageError, RunError: there is no such cluster, or it cannot be used.
    """
    if settings.engine == "ray":
        with _open_cluster(settings, tell) as machines:
            yield machines
        return
    if settings.engine == "process" and settings.start_method != "spawn":
        start_fork_server(PRELOAD)  # imports TensorFlow meanwhile
    yield Machines(_make_engine_here, memory_percent)


def _make_engine_here(run: SearchRun, trials: int, phase: Phase) -> Engine:
    settings, machine, others = run.job.settings, this_machine(), describe_unused()
    in_thread = settings.engine == "thread"
    if in_thread:
        settings = settings.model_copy(update={"workers": 1})
    chosen = choose_gpus_per_trial(run, phase, trials, machine)
    slots, decision = plan_slots(
        machine.gpus, list_cpus(), available_memory_mb(), trials, settings, chosen=chosen, no_gpu=others
    )
    run.recorder.note(replace(decision, reason="engine = thread") if in_thread else decision)
    run.recorder.begin(slots)
    if in_thread:
        return ThreadEngine(slots, run_plan)
    return ProcessEngine(slots, run_plan, settings.start_method, PRELOAD)


@contextlib.contextmanager
def _open_cluster(settings: Settings, tell: Callable[[str], None]) -> Iterator[Machines]:
    from mloptimizer.engines.ray.cluster import connected, list_nodes

    with connected(settings.ray_address):
        from mloptimizer.engines.ray.agents import Agents
        from mloptimizer.engines.ray.ray_engine import RayEngine
        from mloptimizer.engines.ray.remote import check_url
        from mloptimizer.engines.ray.shapes import describe_nodes, most_slots, plan_need

        plan_need(list_nodes(), settings.trials, settings)  # refuses what the cluster cannot have, before anything else
        if settings.checkpoint_url:
            check_url(settings.checkpoint_url)
        tell(f"Ray cluster: {describe_nodes(list_nodes())}.")
        notes: list[Callable[[Decision], None]] = []

        def note_and_tell(decision: Decision) -> None:
            for note in notes[-1:]:
                note(decision)
            tell(f"{decision.topic}: {decision.choice} ({decision.reason}).")

        agents = Agents(run_plan, settings.start_method, PRELOAD, note_and_tell, settings.ray_wait_minutes)

        def make_engine(run: SearchRun, trials: int, phase: Phase) -> Engine:
            now = run.job.settings
            notes.append(run.recorder.note)
            need, decision = plan_again(agents.need, trials, now)
            run.recorder.note(decision)
            agents.aim(need, most_slots(trials, now), spare=now.ray_address != "local")
            return RayEngine(agents, note_and_tell, run.recorder.begin)

        with contextlib.closing(agents):
            yield Machines(make_engine, _not_this_machines)


def plan_again(before: "Need | None", trials: int, settings: Settings) -> "tuple[Need, Decision]":
    """Return what a trial takes; the same as before where the nodes that had it are away: they may return.

    Raises:
        UsageError: no machine of the cluster has that much, and nothing was before.
    """
    from mloptimizer.engines.ray.cluster import list_nodes
    from mloptimizer.engines.ray.shapes import plan_need

    try:
        need, decision = plan_need(list_nodes(), trials, settings)
    except UsageError:
        if before is None:
            raise
    else:
        if before is None or need.gpus or not before.gpus:
            return need, decision
    reason = "as before: the nodes that had it are away, and are waited for"
    return before, Decision(None, "slots", f"{before.describe()} each", reason)


def examine_cluster(address: str) -> "tuple[list[NodeFacts], list[Check]]":
    """Return what there is to know of the cluster's nodes, and what is right and wrong about them.

    Raises:
        UsageError, RunError: there is no such cluster, or it cannot be used.
    """
    from mloptimizer.engines.ray.cluster import connected

    with connected(address):
        from mloptimizer.app.cluster_doctor import judge
        from mloptimizer.engines.ray.node_facts import examine, versions

        nodes = examine()
        return nodes, judge(nodes, versions())


def _not_this_machines() -> float:
    """Return 0: Ray watches the memory of its nodes."""
    return 0.0
