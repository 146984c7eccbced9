"""A Ray cluster of three nodes on this machine, with GPUs that are declared and not there."""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from mloptimizer.core.events import Emit, EpochRecord, Event, ShouldStop
from mloptimizer.core.files import write_text
from mloptimizer.core.nouns import Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import CHECKPOINTS, WEIGHTS
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.ray.cluster import connected
from tests.engines.contract import PATIENCE_SECONDS, act

NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100 * 2**20, "memory": 4 * 2**30}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "500",  # by default, a silent node is given up after about a minute
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}


class TestCluster:
    """Nodes by their Ray ids, and the driver's connection."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        token = folder / "auth_token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        words = {**ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token)}
        self._before = {name: os.environ.get(name) for name in words}
        os.environ.update(words)
        import ray.cluster_utils
        from ray._private.authentication_test_utils import reset_auth_token_state

        reset_auth_token_state()  # Ray has read its environment when it was imported
        self.cluster = ray.cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={**NODE, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False},
        )
        self.nodes = [self.add(), self.add()]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **changes: Any) -> Any:
        """Start a node and wait until it is there."""
        return self.cluster.add_node(**{**NODE, **changes})

    def kill_raylet(self, node: Any) -> None:
        """Kill -9 what holds the node together."""
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def replace(self, node: Any) -> None:
        """Have two nodes again."""
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes[self.nodes.index(node)] = self.add()

    def node_of(self, node_id: str) -> Any:
        return next(node for node in self.nodes if node.node_id == node_id)

    def close(self) -> None:
        self.cluster.shutdown()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def start_cluster(folder: Path) -> Iterator[TestCluster]:
    cluster = TestCluster(folder)
    try:
        with connected(cluster.address):
            yield cluster
    finally:
        cluster.close()


def perform(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Do what the plan's parameters say: as `act`, or count epochs with a checkpoint of each."""
    if plan.params.get("act") not in ("count", "count slowly"):
        return act(plan, slot, emit, should_stop)
    folder = Path(plan.directory) / CHECKPOINTS
    done = max((int(path.stem[-5:]) for path in folder.glob("*.ckpt")), default=0)
    for epoch in range(done + 1, plan.epochs + 1):
        write_text(folder / f"epoch_{epoch:05d}.ckpt", f"after {epoch}")
        emit(EpochRecord(plan.number, epoch, {"val_accuracy": epoch / 10, "pid": float(os.getpid())}, 0.1))
        time.sleep(0.3 * (plan.params["act"] == "count slowly"))
        while epoch == plan.params.get("hold") and plan.attempt == 1:
            if should_stop():
                return TrialResult(plan.number, Outcome.PRUNED, None, 0.1)
            time.sleep(0.01)
    weights = Path(plan.directory) / WEIGHTS
    weights.write_text(f"{slot.host} {os.environ['CUDA_VISIBLE_DEVICES']} {plan.initial_weights[-9:]}")
    return TrialResult(plan.number, Outcome.COMPLETED, 0.5, 0.1, weights=str(weights))


def wait_for_slots(engine: Engine, count: int) -> list[Slot]:
    """Return the idle slots when there are so many."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(slots := engine.idle_slots()) < count:
        assert time.monotonic() < deadline, f"{len(slots)} slots"
        engine.wait(0.5)
    return list(slots)


def wait_for(engine: Engine, is_it: Callable[[Event], bool]) -> list[Event]:
    """Return the events until one is what is waited for."""
    deadline, events = time.monotonic() + PATIENCE_SECONDS, list[Event]()
    while not any(map(is_it, events)):
        assert time.monotonic() < deadline, events
        engine.idle_slots()
        events += engine.wait(0.5)
    return events


def pid_of(engine: Engine, number: int = 0) -> int:
    """Return the process of a running trial, from its first epoch."""
    events = wait_for(engine, lambda event: isinstance(event, EpochRecord) and event.number == number)
    return next(int(event.metrics["pid"]) for event in events if isinstance(event, EpochRecord))


def is_gone(pid: int) -> bool:
    """Wait until the process has ended; return whether it has."""
    try:
        psutil.Process(pid).wait(PATIENCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True
