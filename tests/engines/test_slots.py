from dataclasses import replace
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Slot
from mloptimizer.engines.slots import GpusPerTrial, plan_slots
from mloptimizer.hardware.read.nvml import Gpu


def gpus(count: int) -> list[Gpu]:
    return [Gpu(i, f"GPU-{i}", "H100", 80_000 - i, (9, 0), "580", mig=False) for i in range(count)]


def plan(
    *, count: int = 0, cores: int = 8, memory_mb: float = 64_000, trials: int = 100, **settings: Any
) -> list[Slot]:
    slots, decision = plan_slots(gpus(count), range(cores), memory_mb, trials, Settings(**settings))
    assert decision.reason
    return slots


def test_more_trials_than_gpus_get_one_gpu_each() -> None:
    assert [slot.gpu_ids for slot in plan(count=3)] == [("GPU-0",), ("GPU-1",), ("GPU-2",)]


def test_fewer_trials_than_gpus_get_all_gpus_together() -> None:
    (slot,) = plan(count=8, trials=6)
    assert slot.gpu_ids == tuple(f"GPU-{i}" for i in range(8))
    assert slot.gpu_memory_mb == 79_993


def test_gpus_per_trial_is_followed_and_the_rest_stays_free() -> None:
    assert [slot.gpu_ids for slot in plan(count=5, gpus_per_trial=2)] == [("GPU-0", "GPU-1"), ("GPU-2", "GPU-3")]


def test_more_gpus_per_trial_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="gpus_per_trial = 4: .* 2 GPUs"):
        plan(count=2, gpus_per_trial=4)


def test_gpus_per_trial_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="gpus_per_trial = 1: this machine has 0 GPUs. Possible: auto"):
        plan(gpus_per_trial=1)


def test_workers_limits_the_slots_of_a_machine_with_gpus() -> None:
    assert [slot.gpu_ids for slot in plan(count=4, workers=1)] == [("GPU-0",)]
    assert len(plan(count=2, workers=5)) == 2


def names(**facts: Any) -> list[str]:
    return [slot.name for slot in plan(**facts)]


def test_trials_that_share_gpus_have_slots_of_their_own_the_first_of_every_gpu_first() -> None:
    slots = plan(count=2, trials_per_gpu=2)
    assert [(slot.name, slot.gpu_ids) for slot in slots] == [
        ("gpu0", ("GPU-0",)),
        ("gpu1", ("GPU-1",)),
        ("gpu0b", ("GPU-0",)),
        ("gpu1b", ("GPU-1",)),
    ]
    assert {slot.gpu_trials for slot in slots} == {2}


def test_with_auto_a_gpu_has_slots_for_up_to_four_trials() -> None:
    assert names(count=1, trials_per_gpu="auto") == ["gpu0", "gpu0b", "gpu0c", "gpu0d"]


def test_trials_that_share_a_gpu_share_its_cores_and_a_stated_number_of_them_its_memory() -> None:
    stated, auto = plan(count=2, cores=8, trials_per_gpu=2), plan(count=2, cores=8, trials_per_gpu="auto")
    assert [slot.cpu_ids for slot in stated] == [(0, 1, 2, 3), (4, 5, 6, 7)] * 2
    assert [slot.gpu_memory_mb for slot in stated] == [40_000, 39_999] * 2
    assert [slot.gpu_memory_mb for slot in auto] == [80_000, 79_999] * 4
    assert sum(slot.memory_mb for slot in stated) == 64_000


def test_workers_limits_the_trials_that_share_gpus_too() -> None:
    assert names(count=2, trials_per_gpu="auto", workers=3) == ["gpu0", "gpu1", "gpu0b"]
    assert names(count=2, trials_per_gpu=2, workers=1) == ["gpu0"]


def test_a_trial_with_several_gpus_shares_none() -> None:
    (slot,) = plan(count=2, trials=1, trials_per_gpu="auto")
    assert (slot.name, slot.gpu_trials) == ("gpu0+1", 1)


def test_a_stated_number_of_trials_per_gpu_keeps_one_gpu_each() -> None:
    assert names(count=2, trials=1, trials_per_gpu=2) == ["gpu0", "gpu1", "gpu0b", "gpu1b"]


def instances() -> list[Gpu]:
    return [replace(gpu, uuid=f"MIG-{gpu.index}", mig=True) for gpu in gpus(3)]


def test_a_trial_gets_one_mig_instance() -> None:
    slots, decision = plan_slots(instances(), range(8), 64_000, 1, Settings())
    assert [slot.gpu_ids for slot in slots] == [("MIG-0",), ("MIG-1",), ("MIG-2",)]
    assert "MIG" in decision.reason


def test_more_than_one_mig_instance_per_trial_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gpus_per_trial = 2: .* MIG instances, .* Possible: 1 or auto"):
        plan_slots(instances(), range(8), 64_000, 1, Settings(gpus_per_trial=2))


def test_what_was_measured_counts_instead_of_the_number_of_trials() -> None:
    slots, decision = plan_slots(gpus(4), range(8), 64_000, 100, Settings(), chosen=GpusPerTrial(2, "measured"))
    assert [slot.name for slot in slots] == ["gpu0+1", "gpu2+3"]
    assert (decision.choice, decision.reason) == ("2 of 2 GPUs", "measured")


def test_slots_share_the_cores_evenly_and_without_overlap() -> None:
    shares = [slot.cpu_ids for slot in plan(count=3, cores=8)]
    assert sorted(core for share in shares for core in share) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}


def test_more_workers_than_cores_get_one_core_each() -> None:
    assert [slot.cpu_ids for slot in plan(cores=2, workers=3)] == [(0,), (1,), (0,)]


@pytest.mark.parametrize(
    ("facts", "workers"),
    [
        ({"cores": 2}, 2),
        ({"cores": 16}, 8),
        ({"cores": 4, "memory_mb": 3100}, 2),
        ({"cores": 4, "memory_mb": 100}, 1),
        ({"cores": 4, "trials": 3}, 3),
    ],
)
def test_workers_follow_cores_memory_and_trials(facts: dict[str, Any], workers: int) -> None:
    assert len(plan(**facts)) == workers


@pytest.mark.parametrize("facts", [{"count": 4}, {"workers": 4}], ids=["gpus", "cores"])
def test_slots_share_the_free_memory(facts: dict[str, Any]) -> None:
    assert [slot.memory_mb for slot in plan(memory_mb=30_002, **facts)] == [7500] * 4


@pytest.mark.parametrize(("workers", "reason"), [("auto", "it; 8 cores allow 4, "), (2, "it; setting workers")])
def test_the_reason_distinguishes_an_unusable_gpu_from_no_gpu(workers: Any, reason: str) -> None:
    unused = "an AMD GPU is here, but mloptimizer neither uses nor reads it"
    _, decision = plan_slots([], range(8), 64_000, 100, Settings(workers=workers), no_gpu=unused)
    assert decision.reason.startswith(unused.removesuffix("it") + reason)
    _, alone = plan_slots([], range(8), 64_000, 100, Settings())
    assert alone.reason.startswith("no GPU; 8 cores allow 4, ")


def test_the_instances_of_a_partitioned_gpu_are_slots_with_names_of_their_own() -> None:
    instances = [
        Gpu(0, f"MIG-{gi}", "H100 MIG", 10_000, (9, 0), "580", True, "GPU-0", (gi, 0)) for gi in (7, 8)
    ]  # fmt: skip
    slots, _ = plan_slots(instances, range(8), 64_000, 100, Settings())
    assert [(slot.name, slot.gpu_ids) for slot in slots] == [("gpu0.7.0", ("MIG-7",)), ("gpu0.8.0", ("MIG-8",))]
