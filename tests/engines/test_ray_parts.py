"""What the Ray engine decides and carries, without a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray.exceptions as errors

from mloptimizer import __version__
from mloptimizer.app.cluster_doctor import judge
from mloptimizer.app.engine_choice import plan_again
from mloptimizer.config.settings import Settings
from mloptimizer.core.check import NodeFacts
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Slot
from mloptimizer.data.library import map_split, prepare_dataset
from mloptimizer.engines.process.left_over import LOCK
from mloptimizer.engines.ray.agent import AgentFacts
from mloptimizer.engines.ray.agents import Agent, Agents
from mloptimizer.engines.ray.node_data import find_dataset, keep_dataset, own_folder, pack_dataset
from mloptimizer.engines.ray.nodes import NodeRecords
from mloptimizer.engines.ray.parcels import Outbox, Tail, list_files, pack, remove_others, unpack
from mloptimizer.engines.ray.ray_engine import RayEngine
from mloptimizer.engines.ray.ray_failures import explain
from mloptimizer.engines.ray.remote import RemoteFolder, check_url
from mloptimizer.engines.ray.shapes import Need, Node, describe_nodes, most_slots, plan_need

CPU_NODE, GPU_NODE = Node("a", "a", 4, 0, 8000), Node("b", "b", 16, 4, 64_000)


def need(*nodes: Node, trials: int = 100, **settings: Any) -> Need:
    return plan_need(nodes, trials, Settings(**settings))[0]


def test_a_trial_takes_a_gpu_with_its_share_of_the_nodes_cores() -> None:
    assert need(CPU_NODE, GPU_NODE) == Need(1, 4.0, 1500)


def test_fewer_trials_than_gpus_get_several_within_one_node() -> None:
    assert need(GPU_NODE, GPU_NODE, trials=3).gpus == 2
    assert need(GPU_NODE, GPU_NODE, trials=1).gpus == 4


def test_without_gpus_small_machines_give_a_core_to_each_and_larger_ones_two() -> None:
    assert need(CPU_NODE).cpus == 1
    assert need(Node("c", "c", 8, 0, 64_000)).cpus == 2


def test_stated_workers_share_the_cores_and_ask_for_no_memory() -> None:
    assert need(CPU_NODE, CPU_NODE, workers=2) == Need(0, 4.0, 0)
    assert most_slots(100, Settings(workers=2)) == 2


def test_a_node_holds_as_many_trials_as_its_scarcest_resource_allows() -> None:
    assert Need(1, 4.0, 20_000).count(GPU_NODE) == 3
    assert Need(1, 4.0, 0).count(CPU_NODE) == 0
    assert Need(1, 0.33, 0).count(Node("d", "d", 1, 3, 1)) == 3


def test_a_need_that_no_node_can_meet_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"1 node of 4 CPUs, 0 GPUs.*1 node of 16 CPUs, 4 GPUs.*Possible: 1 to 4"):
        need(CPU_NODE, GPU_NODE, gpus_per_trial=5)
    with pytest.raises(UsageError, match="no node of the cluster has that"):
        need(Node("c", "c", 8, 0, 100))
    assert describe_nodes([]) == "no nodes"


def test_a_node_is_left_out_only_where_others_are_sound() -> None:
    records = NodeRecords()
    for _ in range(5):
        assert records.note("bad", FailureKind.CRASH) == ""
    records.note("good", None)
    assert "crash" in records.note("bad", FailureKind.CRASH)
    assert records.left_out == {"bad"}
    assert not any(records.note("good", FailureKind.CRASH) for _ in range(5))


def test_the_trials_own_faults_do_not_count_against_a_node() -> None:
    records = NodeRecords()
    records.note("good", None)
    assert not any(records.note("bad", FailureKind.NON_FINITE) for _ in range(5))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ActorDiedError(), FailureKind.LOST_WORKER),
        (errors.ActorUnavailableError("away", None), FailureKind.LOST_WORKER),
        (errors.NodeDiedError("gone"), FailureKind.LOST_WORKER),
        (errors.OutOfMemoryError("full"), FailureKind.OUT_OF_MEMORY),
        (errors.UnserializableException("strange"), FailureKind.LOST_WORKER),
        (errors.RayTaskError("step", "Traceback", ValueError("two\nlines")), FailureKind.CRASH),
    ],
)
def test_an_error_of_ray_has_one_meaning_and_one_line(error: errors.RayError, kind: FailureKind) -> None:
    found, message = explain(error)
    assert found is kind
    assert "\n" not in message


def test_files_travel_whole_and_what_went_at_one_end_goes_at_the_other(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    unpack({"checkpoints/1": np.frombuffer(b"one", np.uint8), "checkpoints/2": np.frombuffer(b"", np.uint8)}, here)
    outbox = Outbox(here, "checkpoints")
    (here / "checkpoints" / "1").unlink()
    (here / "checkpoints" / "3").write_bytes(b"three")
    (here / "checkpoints" / ".4.part").write_bytes(b"half")
    new, names = outbox.take()
    assert (list(new), names) == (["checkpoints/3"], ("checkpoints/2", "checkpoints/3"))
    unpack(pack(new), there)
    (there / "checkpoints" / "1").write_bytes(b"old")
    remove_others(there, "checkpoints", names)
    assert list(list_files(there)) == ["checkpoints/3"]
    assert outbox.take()[0] == {}


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "a\\b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="no place"):
        unpack({name: np.zeros(1, np.uint8)}, tmp_path)


def test_a_log_is_taken_piece_by_piece(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.take(10) == b""
    (tmp_path / "log").write_bytes(b"one two")
    assert (tail.take(3), tail.take(10), tail.take(10)) == (b"one", b" two", b"")


def test_a_data_set_is_sent_to_a_node_that_lacks_it_and_kept_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path / "driver"))
    dataset = prepare_dataset("digits", 0.2, 1, 0)
    parcel = pack_dataset(dataset)
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path / "node"))
    (tmp_path / "driver").rename(tmp_path / "away")
    assert find_dataset(dataset) is None
    kept = keep_dataset(dataset, parcel)
    assert kept.directory.startswith(str(tmp_path / "node"))
    assert find_dataset(dataset) == kept == keep_dataset(dataset, {})
    assert len(map_split(kept, "test")[1]) == dataset.test_size


def test_a_data_set_that_was_changed_on_its_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path / "driver"))
    dataset = prepare_dataset("digits", 0.2, 1, 0)
    parcel = {**pack_dataset(dataset)}
    parcel["test_labels.npy"] = parcel["train_labels.npy"]
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path / "node"))
    (tmp_path / "driver").rename(tmp_path / "away")
    with pytest.raises(RunError, match="on their way here"):
        keep_dataset(dataset, parcel)
    assert not list((tmp_path / "node" / "datasets").glob("digits*"))


def test_without_a_data_set_to_send_the_trial_says_what_it_misses(make_dataset: Callable[..., DatasetInfo]) -> None:
    assert keep_dataset(make_dataset(), pack_dataset(make_dataset())) == make_dataset()


def test_what_a_killed_agent_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path))
    with own_folder() as first, own_folder() as second:
        left = first.with_name(f"{first.name}-left")
        left.mkdir()
        (left / LOCK).touch()
        with own_folder():
            assert not left.exists()
            assert first.is_dir() and second.is_dir()
    assert not first.exists()


class AgentsThere:
    """Stands for actors that are all there."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.all = [Agent(None, None, AgentFacts(slot, slot.host, __version__, "token")) for slot in slots]

    def ready(self) -> list[Agent]:
        return self.all

    def tend(self, busy: Sequence[Agent]) -> set[str]:
        return set()


def test_slots_with_small_cards_are_used_first_and_all_are_shown_once() -> None:
    slots = [Slot(f"{mb} MB", "a", (f"GPU-{mb}",), gpu_memory_mb=mb) for mb in (81_920, 16_384, 40_960)]
    shown: list[list[Slot]] = []
    engine = RayEngine(cast(Agents, AgentsThere(slots)), lambda those: shown.append([*those]))
    for _ in range(2):
        assert [slot.gpu_memory_mb for slot in engine.idle_slots()] == [16_384, 40_960, 81_920]
    assert shown == [slots]


def test_at_a_url_an_attempt_that_was_cut_off_takes_nothing_from_its_successor(tmp_path: Path) -> None:
    def make(name: str) -> Path:
        path = tmp_path / name
        path.write_text(name)
        return path

    def kept() -> list[str]:
        return sorted(str(path.relative_to(tmp_path / "url/t")) for path in (tmp_path / "url/t").rglob("*.ckpt"))

    first, second = (RemoteFolder(f"file://{tmp_path}/url", "t", attempt) for attempt in (1, 2))
    first.keep([make("epoch_1.ckpt")], ["epoch_1.ckpt"])
    second.fetch(tmp_path / "fetched")
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["epoch_1.ckpt"]
    second.keep([make("epoch_2.ckpt")], ["epoch_2.ckpt"])
    assert kept() == ["attempt_00002/epoch_2.ckpt"]
    first.keep([make("epoch_9.ckpt")], ["epoch_9.ckpt"])  # it is cut off from the driver, not from the URL
    RemoteFolder(f"file://{tmp_path}/url", "t", 3).fetch(tmp_path / "newest")
    assert [path.name for path in (tmp_path / "newest").iterdir()] == ["epoch_2.ckpt"]
    first.remove_attempts()
    assert kept() == ["attempt_00002/epoch_2.ckpt"]


@pytest.mark.parametrize("url", ["folder", "s3x://bucket/path"])
def test_a_url_at_which_nothing_can_be_kept_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="^checkpoint_url: .*Possible: file"):
        check_url(url)


def test_the_end_of_a_long_log_is_what_is_kept_of_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("0123456789")
    tail = Tail(tmp_path / "log")
    assert (tail.take(3), tail.take_last(4), tail.take(3)) == (b"012", b"6789", b"")


def test_the_doctor_finds_nodes_that_ask_for_no_token() -> None:
    def find(mode: str) -> bool | None:
        node = NodeFacts("a", True, False, cpus=1, gpus=0, closed_ports=(), auth_mode=mode)
        return next(check.ok for check in judge([node], {}) if check.name == "authentication")

    assert [find(mode) for mode in ("token", "", "disabled")] == [True, False, False]


def test_a_phase_waits_for_the_nodes_that_the_one_before_had(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [CPU_NODE, GPU_NODE]
    monkeypatch.setattr("mloptimizer.engines.ray.cluster.list_nodes", lambda: nodes)
    first, _ = plan_again(None, 100, Settings())
    assert first.gpus == 1
    for left in ([CPU_NODE], []):
        nodes[:] = left
        need, decision = plan_again(first, 2, Settings())
        assert (need, "waiting for" in decision.reason) == (first, True)
    with pytest.raises(UsageError):
        plan_again(None, 2, Settings())
