"""Opens the machines that a search runs on, this one or a Ray cluster, and examines those of a cluster."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check, NodeFacts
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Decision
from mloptimizer.core.listener import Listener
from mloptimizer.core.nouns import Phase
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.process.fork_server import start_fork_server
from mloptimizer.engines.process.process_engine import ProcessEngine
from mloptimizer.engines.slots import plan_slots
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.read.main_memory import memory_percent
from mloptimizer.hardware.read.vendors import describe_unused
from mloptimizer.search.job import Job
from mloptimizer.search.phases import fitted_steps
from mloptimizer.search.search_run import SearchRun
from mloptimizer.spaces.space_files import load_space
from mloptimizer.training.worker import PRELOAD, run_plan
from mloptimizer.tuning.gpus_per_trial import BrokenOffError, Question, choose_gpus_per_trial
from mloptimizer.tuning.measured_model import choose_model
from mloptimizer.tuning.measurement import Workload, this_machine

if TYPE_CHECKING:
    from mloptimizer.engines.ray.shapes import Need

_EPOCHS, _STEPS = 3, 30  # of a measured training; the first epoch compiles


@dataclass(frozen=True)
class Machines:
    """What trials run on while the search runs."""

    make_engine: Callable[[SearchRun, int, Phase], Engine]  # for this many trials of the phase
    memory_percent: Callable[[], float]  # share of their main memory in use, %; 0: not the driver's concern


OpenMachines = Callable[[Settings, Listener], contextlib.AbstractContextManager[Machines]]


@contextlib.contextmanager
def open_machines(settings: Settings, listeners: Listener) -> Iterator[Machines]:
    """Let trials run within the block.

    Raises:
        UsageError, RunError: there is no such cluster, or it cannot be used.
    """
    if settings.engine == "ray":
        with _open_cluster(settings, listeners) as machines:
            yield machines
        return
    if settings.engine == "process" and settings.start_method != "spawn":
        start_fork_server(PRELOAD)  # imports TensorFlow meanwhile
    yield Machines(_make_engine_here, memory_percent)


def _make_engine_here(run: SearchRun, trials: int, phase: Phase) -> Engine:
    settings, machine = run.job.settings, this_machine()
    in_thread = settings.engine == "thread"
    if in_thread:
        settings = settings.model_copy(update={"workers": 1})
    chosen = choose_gpus_per_trial(ask_for_gpus(run, trials, phase), machine)
    here = (machine.gpus, list_cpus(), available_memory_mb())
    slots, decision = plan_slots(*here, trials, settings, chosen=chosen, no_gpu=describe_unused())
    run.listeners.decided(replace(decision, reason="engine = thread") if in_thread else decision)
    run.listeners.slots_given(slots)
    if in_thread:
        return ThreadEngine(slots, run_plan)
    return ProcessEngine(slots, run_plan, settings.start_method, PRELOAD)


def ask_for_gpus(run: SearchRun, trials: int, phase: Phase) -> Question:
    """Return what decides how many GPUs each of this many trials gets."""

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        for line in run.control.look(None):
            run.listeners.notice(line)
        if run.control.stop or run.control.paused:
            raise BrokenOffError(f"the search was asked to {'stop' if run.control.stop else 'pause'}")
        with run.interruptible():
            yield

    job = run.job
    return Question(
        phase=phase,
        trials=trials,
        dataset=job.dataset,
        settings=job.settings,
        cache=job.workspace.cache(job.name),
        find_workload=functools.partial(find_workload, job),
        tell=run.listeners.notice,
        waiting=waiting,
    )


def find_workload(job: Job) -> Workload:
    """Return what to measure: the best model of the exploration, or before there is one, the model of `tune`."""
    if not (best := job.study.best(1)):
        space, params = choose_model(None, job.dataset, job.workspace.search_spaces)
        return Workload(space, params, job.dataset, _EPOCHS, _STEPS)
    trial, record = best[0], job.store.trial(best[0].number)
    space = job.spaces.get(trial.space) or load_space(trial.space, job.store.read_space(trial.space), trial.space)
    return Workload(space, trial.params, job.dataset, _EPOCHS, _STEPS, fitted_steps(record) if record else 1)


@contextlib.contextmanager
def _open_cluster(settings: Settings, listeners: Listener) -> Iterator[Machines]:
    from mloptimizer.engines.ray.cluster import connected, list_nodes

    with connected(settings.ray_address):
        from mloptimizer.engines.ray.agents import Agents
        from mloptimizer.engines.ray.ray_engine import RayEngine
        from mloptimizer.engines.ray.remote import check_url
        from mloptimizer.engines.ray.shapes import describe_nodes, most_slots, plan_need

        plan_need(list_nodes(), settings.trials, settings)  # first of all: refuses what the cluster cannot have
        if settings.checkpoint_url:
            check_url(settings.checkpoint_url)
        listeners.notice(f"Ray cluster: {describe_nodes(list_nodes())}.")

        def note_and_tell(decision: Decision) -> None:
            listeners.decided(decision)
            listeners.notice(f"{decision.topic}: {decision.choice} ({decision.reason}).")

        agents = Agents(run_plan, settings.start_method, PRELOAD, note_and_tell, settings.ray_wait_minutes)

        def make_engine(run: SearchRun, trials: int, phase: Phase) -> Engine:
            now = run.job.settings
            need, decision = plan_again(agents.need, trials, now)
            listeners.decided(decision)
            agents.aim(need, most_slots(trials, now), spare=now.ray_address != "local")
            return RayEngine(agents, listeners.slots_given)

        with contextlib.closing(agents):
            yield Machines(make_engine, lambda: 0.0)  # Ray watches the memory of its nodes


def plan_again(before: "Need | None", trials: int, settings: Settings) -> "tuple[Need, Decision]":
    """Return what a trial takes; the same as before if the nodes that had it are away: they may return.

    Raises:
        UsageError: no machine of the cluster has that much, and there was no plan before.
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
    reason = "as before: waiting for the nodes that had it to return"
    return before, Decision(None, "slots", f"{before.describe()} each", reason)


def examine_cluster(address: str) -> tuple[list[NodeFacts], list[Check]]:
    """Return the facts of the cluster's nodes, and what is right and wrong about them.

    Raises:
        UsageError, RunError: there is no such cluster, or it cannot be used.
    """
    from mloptimizer.engines.ray.cluster import connected

    with connected(address):
        from mloptimizer.app.cluster_doctor import judge
        from mloptimizer.engines.ray.node_facts import examine, versions

        nodes = examine()
        return nodes, judge(nodes, versions())
