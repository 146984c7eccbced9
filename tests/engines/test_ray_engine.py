"""The Ray engine on a cluster of three nodes: the engines' contract, lost workers and nodes, and what travels."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.events import Decision, EpochRecord
from mloptimizer.core.files import read_json, write_json
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.core.trial_files import CHECKPOINTS, RESULT, WORKER_LOG
from mloptimizer.data.library import prepare_dataset
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.ray.agents import Agents
from mloptimizer.engines.ray.cluster import connected
from mloptimizer.engines.ray.nodes import NodeRecords
from mloptimizer.engines.ray.ray_engine import RayEngine
from mloptimizer.engines.ray.shapes import Need
from mloptimizer.search.retries import resumed
from mloptimizer.search.search_run import SearchRun
from mloptimizer.store.workspace import Workspace
from mloptimizer.training.worker import PRELOAD, run_plan
from tests.engines.contract import EngineContract, bare_plan, collect, results_of
from tests.engines.ray_cluster import TestCluster, is_gone, pid_of, wait_for, wait_for_slots
from tests.shell import wait_for as until
from tests.small_searches import LINE, Watcher, run_small_search

pytestmark = pytest.mark.cluster
MakePlan = Callable[..., TrialPlan]
ONE_GPU = Need(1, 1.0, 0)


def forget_deaths(agents: Agents) -> None:
    """Want two slots again; the deaths of other tests would leave a node out."""
    agents.nodes = NodeRecords()
    for agent in [agent for agent in agents.all if agent.facts is None]:
        agents.discard(agent)
    agents.aim(ONE_GPU, 2)


@pytest.fixture
def engine(agents: Agents) -> Iterator[RayEngine]:
    forget_deaths(agents)
    engine = RayEngine(agents)
    yield engine
    engine.close()


@pytest.fixture
def slots(engine: RayEngine) -> Sequence[Slot]:
    return wait_for_slots(engine, 2)


class TestRay(EngineContract):
    @pytest.fixture
    def engine(self, agents: Agents) -> Iterator[Engine]:
        forget_deaths(agents)
        engine = RayEngine(agents)
        yield engine
        engine.close()

    @pytest.fixture
    def slots(self, engine: Engine) -> Sequence[Slot]:
        return wait_for_slots(engine, 2)


def node_of(agents: Agents, slot: Slot) -> str:
    return next(agent.facts.node for agent in agents.ready() if agent.facts and agent.slot == slot)


def epochs_of(events: Sequence[object]) -> list[int]:
    return [event.epoch for event in events if isinstance(event, EpochRecord)]


def test_slots_lie_on_different_nodes_and_hide_gpus_that_are_not_there(
    engine: RayEngine, agents: Agents, slots: Sequence[Slot], notes: list[Decision]
) -> None:
    assert len({node_of(agents, slot) for slot in slots}) == 2
    assert all(slot.gpu_ids == () and slot.memory_mb > 0 for slot in slots)
    assert any("NVML sees none" in note.reason for note in notes)


def test_weights_and_log_come_back_to_the_drivers_folder(
    engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan, tmp_path: Path
) -> None:
    start = tmp_path / "elsewhere" / "abc.weights.h5"
    start.parent.mkdir()
    start.write_text("good")
    plan = make_plan(params={"act": "count"}, initial_weights=str(start))
    engine.start(plan, slots[0])
    (result,) = results_of(collect(engine, 1))
    assert result.weights == str(Path(plan.directory) / "model.weights.h5")
    assert Path(result.weights).read_text() == f"{slots[0].host} -1 eights.h5"
    assert sorted(path.name for path in (Path(plan.directory) / CHECKPOINTS).iterdir())[-1] == "epoch_00003.ckpt"


def test_what_a_dying_worker_printed_comes_back(engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan) -> None:
    plan = make_plan(params={"act": "raise"})
    engine.start(plan, slots[0])
    (result,) = results_of(collect(engine, 1))
    assert result.failure and "a worker must never raise" in result.failure.traceback
    assert "a worker must never raise" in (Path(plan.directory) / WORKER_LOG).read_text()


def test_a_killed_trial_process_is_a_crash_and_a_killed_actor_a_lost_worker(
    engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan
) -> None:
    engine.start(make_plan(0, params={"act": "wait"}), slots[0])
    os.kill(pid_of(engine), signal.SIGKILL)
    (crash,) = results_of(collect(engine, 1))
    engine.start(make_plan(1, params={"act": "wait"}), slots[1])
    pid = pid_of(engine, 1)
    fork_server = psutil.Process(pid).parent()
    assert fork_server
    os.kill(fork_server.ppid(), signal.SIGKILL)
    (lost,) = results_of(collect(engine, 1))
    assert crash.failure and crash.failure.kind is FailureKind.CRASH
    assert lost.failure and lost.failure.kind is FailureKind.LOST_WORKER
    assert is_gone(pid)
    assert engine.wait(0.01) == []
    wait_for_slots(engine, 2)


def test_a_trial_that_hears_nothing_is_killed_with_its_tree(
    engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan
) -> None:
    engine.start(make_plan(params={"act": "wait"}), slots[0])
    pid = pid_of(engine)
    os.kill(pid, signal.SIGSTOP)
    engine.kill_trial(0)
    (result,) = results_of(collect(engine, 1))
    assert result.failure and result.failure.kind is FailureKind.CRASH
    assert is_gone(pid)


def test_an_actor_that_hears_nothing_is_ended_and_the_trial_is_lost(
    engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan
) -> None:
    engine.start(make_plan(params={"act": "wait"}), slots[0])
    pid = pid_of(engine)
    server = psutil.Process(pid).parent()
    assert server
    actor = server.ppid()
    os.kill(actor, signal.SIGSTOP)
    engine.kill_trial(0)
    (result,) = results_of(collect(engine, 1))
    assert result.failure and result.failure.kind is FailureKind.LOST_WORKER
    os.kill(actor, signal.SIGCONT)  # as a node that was cut off and comes back
    assert is_gone(pid)
    assert not any(isinstance(event, TrialResult) for event in engine.wait(0.5))


@pytest.mark.parametrize("way", ["kill the raylet", "remove the node"])
def test_a_trial_whose_node_is_lost_resumes_from_its_checkpoint_elsewhere(
    engine: RayEngine, agents: Agents, cluster: TestCluster, make_plan: MakePlan, way: str
) -> None:
    slots = wait_for_slots(engine, 2)
    plan = make_plan(params={"act": "count", "hold": 2}, epochs=4)
    engine.start(plan, slots[0])
    wait_for(engine, lambda event: isinstance(event, EpochRecord) and event.epoch == 2)
    first = node_of(agents, slots[0])
    node = cluster.node_of(first)
    if way == "kill the raylet":
        cluster.kill_raylet(node)
    else:
        cluster.cluster.remove_node(node, allow_graceful=False)
    (lost,) = results_of(collect(engine, 1))
    assert lost.failure and lost.failure.kind is FailureKind.LOST_WORKER
    (other,) = (slot for slot in wait_for_slots(engine, 1) if node_of(agents, slot) != first)
    engine.start(resumed(plan), other)
    events = collect(engine, 1)
    assert epochs_of(events) == [3, 4]
    assert results_of(events)[0].outcome is Outcome.COMPLETED
    if way == "kill the raylet":
        cluster.replace(node)
    else:
        cluster.nodes[cluster.nodes.index(node)] = cluster.add()
    assert {node_of(agents, slot) for slot in wait_for_slots(engine, 2)} == {n.node_id for n in cluster.nodes}


def test_a_node_that_is_about_to_leave_gives_its_trial_back(
    engine: RayEngine, agents: Agents, cluster: TestCluster, make_plan: MakePlan
) -> None:
    slots = wait_for_slots(engine, 2)
    plan = make_plan(params={"act": "count", "hold": 1})
    engine.start(plan, slots[0])
    wait_for(engine, lambda event: isinstance(event, EpochRecord))
    node = cluster.node_of(node_of(agents, slots[0]))
    words = ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    script = Path(sys.executable).with_name("ray")
    command = [str(script), "drain-node", "--address", cluster.address, *words, "--deadline-remaining-seconds", "300"]
    subprocess.run(command, check=True, capture_output=True)
    events = wait_for(engine, lambda event: isinstance(event, TrialResult))
    (result,) = results_of(events)
    assert result.failure and result.failure.kind is FailureKind.LOST_WORKER
    assert "about to leave" in result.failure.message
    assert slots[0] not in engine.idle_slots()  # or the trial would be stopped there again
    cluster.replace(node)
    engine.start(resumed(plan), wait_for_slots(engine, 2)[0])
    assert epochs_of(collect(engine, 1)) == [2, 3]


def test_checkpoints_can_lie_at_a_url(
    engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan, tmp_path: Path
) -> None:
    settings = Settings(engine="ray", checkpoint_url=f"file://{tmp_path}/kept")
    plan = make_plan(params={"act": "count", "hold": 2}, settings=settings)
    engine.start(plan, slots[0])
    wait_for(engine, lambda event: isinstance(event, EpochRecord) and event.epoch == 2)
    engine.kill_trial(0)
    collect(engine, 1)
    assert not (Path(plan.directory) / CHECKPOINTS).exists()
    place = tmp_path / f"kept/test/trial_00000_{plan.seed:08x}"
    assert sorted(path.name for path in (place / "attempt_00001").iterdir())[-1] == "epoch_00002.ckpt"
    engine.start(resumed(plan), slots[1])
    assert epochs_of(collect(engine, 1)) == [3]
    assert not list(place.iterdir())
    write_json(Path(plan.directory) / RESULT, {})  # as the driver does when a trial has ended
    engine.close()
    assert not place.exists()


DENSE = '''"""One layer."""


def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras

    return keras.Sequential([
        keras.Input(dataset.input_shape), keras.layers.Flatten(), keras.layers.Dense(dataset.classes)
    ])
'''
SLOW_LINE = LINE.replace('return {"x"', 'return {"act": "count slowly", "x"')


class RayletKiller(Watcher):
    """Kills a node when the first epoch has come."""

    def __init__(self, kill: Callable[[], None]) -> None:
        super().__init__()
        self._kill: Callable[[], None] | None = kill

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        if self._kill:
            self._kill()
        self._kill = None


def test_every_trial_of_a_search_that_loses_a_node_ends_exactly_once(
    agents: Agents, cluster: TestCluster, workspace: Workspace, make_dataset: Callable[..., DatasetInfo]
) -> None:
    def make_engine(run: SearchRun, trials: int, phase: Phase) -> RayEngine:
        forget_deaths(agents)
        engine = RayEngine(agents, run.listeners.slots_given)
        wait_for_slots(engine, 2)  # so that a trial is running on each node
        return engine

    node = cluster.nodes[0]
    told: list[str] = []

    def kill() -> None:
        told.extend(slot["name"] for slot in read_json(workspace.running_file("s"))["slots"])
        cluster.kill_raylet(node)

    killer = RayletKiller(kill)
    summary, watcher = run_small_search(
        workspace,
        make_dataset(),
        source=SLOW_LINE,
        new_engine=make_engine,
        explore_only=True,
        watcher=killer,
        trials=5,
    )
    cluster.replace(node)
    assert [result.outcome for _, result in watcher.ended] == 5 * [Outcome.COMPLETED]
    assert sorted(result.number for _, result in watcher.ended) == list(range(5))
    assert len(watcher.again) == 1
    assert len(set(told)) == 2  # what `mloptimizer top` shows
    assert summary.exploration[Outcome.COMPLETED] == 5


DRIVER = """
import sys, time
from pathlib import Path
from mloptimizer.engines.ray.agents import Agents
from mloptimizer.engines.ray.cluster import connected
from mloptimizer.engines.ray.cluster import connected
from mloptimizer.engines.ray.ray_engine import RayEngine
from mloptimizer.engines.ray.shapes import Need
from tests.engines.contract import bare_plan
from tests.engines.ray_cluster import perform, pid_of, wait_for_slots
with connected(sys.argv[1]):
    agents = Agents(perform, "forkserver", (), lambda note: None, 10)
    agents.aim(Need(0, 1.0, 0), 1)
    engine = RayEngine(agents)
    engine.start(bare_plan(0, {"act": "wait"}, sys.argv[2]), wait_for_slots(engine, 1)[0])
    print(pid_of(engine), flush=True)
    time.sleep(600)
"""


def test_the_trials_of_a_killed_driver_end_with_it(cluster: TestCluster, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as driver:
        assert driver.stdout
        pid = int(driver.stdout.readline())
        assert psutil.pid_exists(pid)
        driver.kill()
    assert is_gone(pid)


def test_slots_beyond_the_clusters_room_are_demand_that_an_autoscaler_sees(
    engine: RayEngine, agents: Agents, slots: Sequence[Slot], cluster: TestCluster
) -> None:
    agents.aim(ONE_GPU, 100)
    engine.idle_slots()
    assert len(agents.all) == 3
    agents.aim(ONE_GPU, 100, spare=False)
    engine.idle_slots()
    assert len(agents.all) == 2


def test_a_node_that_joins_gets_work(engine: RayEngine, agents: Agents, cluster: TestCluster) -> None:
    agents.aim(ONE_GPU, 3)
    wait_for_slots(engine, 2)
    node = cluster.add()
    assert node.node_id in {node_of(agents, slot) for slot in wait_for_slots(engine, 3)}
    cluster.cluster.remove_node(node, allow_graceful=False)
    agents.aim(ONE_GPU, 2)


def test_a_node_that_is_left_out_gets_no_actor(
    engine: RayEngine, agents: Agents, slots: Sequence[Slot], make_plan: MakePlan, notes: list[Decision]
) -> None:
    engine.start(make_plan(0), slots[1])
    collect(engine, 1)
    bad = node_of(agents, slots[0])
    for number in range(1, 4):
        (slot,) = (slot for slot in engine.idle_slots() if node_of(agents, slot) == bad)
        engine.start(make_plan(number, params={"act": "exit"}), slot)
        collect(engine, 1)
    assert "left out" in notes[-1].choice
    agents.aim(ONE_GPU, 2)
    engine.idle_slots()
    assert {agent.facts.node for agent in agents.ready() if agent.facts} == {node_of(agents, slots[1])}


def test_a_storage_url_never_leaves_the_driver(engine: RayEngine, slots: Sequence[Slot], make_plan: MakePlan) -> None:
    plan = make_plan()
    assert plan.settings.storage == ""
    with pytest.raises(ValueError, match="storage"):
        engine.start(replace(plan, settings=Settings(storage="postgresql://me:secret@host/db")), slots[0])


LOCAL = """
import os, signal, stat, psutil, ray
signal.signal(signal.SIGTERM, print)
from mloptimizer.engines.ray.cluster import connected
with connected("local"):
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [c.laddr.ip for p in tree for c in p.net_connections("inet") if c.status == "LISTEN"]
    print(sorted(set(found)), oct(stat.S_IMODE(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode)))
    names = ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")
    print([[p.environ().get(name) for name in names] for p in tree if p.name() in ("gcs_server", "raylet")])
    print(repr(ray._private.worker.get_dashboard_url()), signal.getsignal(signal.SIGTERM) is print)
print(not psutil.Process().children(recursive=True))
"""


def test_a_local_cluster_listens_on_this_machine_alone_with_a_private_token_and_ends_with_the_driver() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", LOCAL], env=kept, capture_output=True, text=True, cwd=root)
    assert done.stdout.splitlines() == [
        "['127.0.0.1', '::ffff:127.0.0.1'] 0o600",
        "[['token', '0'], ['token', '0']]",
        "'' True",
        "True",
    ], done.stderr


TOLD = """
import ray
from mloptimizer.engines.ray.cluster import connected

with connected("local"):
    ray.get(ray.remote(lambda: 1).remote())
    print([job["Entrypoint"] for job in ray._private.state.jobs()])
"""


def test_a_cluster_does_not_receive_the_command_line_which_may_contain_the_storages_password() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", TOLD, "--storage", "postgresql+psycopg://me:geheim-5x7@host/db"]
    done = subprocess.run(words, env=kept, capture_output=True, text=True, cwd=str(Path(__file__).parents[2]))
    assert done.stdout == "['mloptimizer']\n", done.stderr


def ask_doctor(address: str, token: Path) -> str:
    """Return the one line that the command prints where this file's token does not do."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, "-m", "mloptimizer", "cluster", "doctor", "--address", address]
    done = subprocess.run(command, env=kept | words, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_ctrl_c_while_a_local_cluster_starts_ends_all_of_it() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "mloptimizer", "cluster", "doctor", "--address", "local"]
    process = psutil.Popen(command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: "gcs_server" in {child.name() for child in process.children(recursive=True)})
    started = process.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said.strip()) == (130, "Error: stopped.")
    until(lambda: not any(child.is_running() for child in started))


def test_a_token_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    assert "its token cannot be used" in ask_doctor("local", tmp_path / "missing")


def test_a_token_that_the_cluster_does_not_take_is_one_line(cluster: TestCluster, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("0" * 64)
    assert "or it has another token" in ask_doctor(cluster.address, tmp_path / "wrong")


def test_a_cluster_without_a_token_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="there is no token"), connected("192.0.2.1:6379"):
        pass


@pytest.mark.parametrize("address", ["somewhere", "ray://127.0.0.1:10001", "127.0.0.1:port", ":6379"])
def test_an_invalid_address_is_refused_with_what_is_possible(address: str) -> None:
    with pytest.raises(UsageError, match="Possible: auto, local, or HOST:PORT"), connected(address):
        pass


@pytest.mark.parametrize("way", ["--address", "RAY_ADDRESS"])
def test_where_nothing_answers_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    began = time.monotonic()
    with pytest.raises(RunError, match="Is its head started"), connected("auto" if way == "RAY_ADDRESS" else nobody):
        pass
    assert time.monotonic() - began < 10


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):  # which come second
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="pip install 'mloptimizer\\[ray\\]'"), connected("192.0.2.1:6379"):
        pass


def test_a_real_training_resumes_elsewhere_when_its_node_is_lost(
    cluster: TestCluster, agents: Agents, tmp_path: Path
) -> None:
    dataset = prepare_dataset("digits", 0.2, 1, 400)
    agents.aim(ONE_GPU, 0)
    agents.tend([])
    real = Agents(run_plan, "forkserver", PRELOAD, lambda note: None, 10)
    real.aim(ONE_GPU, 2)
    with contextlib.closing(real), contextlib.closing(RayEngine(real)) as engine:
        slot = wait_for_slots(engine, 2)[0]
        plan = replace(
            bare_plan(0, {}, str(tmp_path)), dataset=dataset, space="line", space_source=DENSE, epochs=300, patience=300
        )
        engine.start(plan, slot)
        events = wait_for(engine, lambda event: isinstance(event, EpochRecord) and event.epoch >= 2)
        node = cluster.node_of(node_of(real, slot))
        cluster.kill_raylet(node)
        events += wait_for(engine, lambda event: isinstance(event, TrialResult))
        made = max(epochs_of(events))
        next_plan = replace(resumed(plan), recorded_epochs=made)
        engine.start(next_plan, wait_for_slots(engine, 1)[0])
        events = wait_for(engine, lambda event: isinstance(event, EpochRecord) and event.epoch > made)
        assert min(epochs_of(events)) > 1  # not from the beginning
        engine.stop_trial(0)
        (result,) = results_of(wait_for(engine, lambda event: isinstance(event, TrialResult)))
        assert result.outcome is Outcome.PRUNED
    cluster.replace(node)
