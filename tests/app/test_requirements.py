from collections.abc import Callable
from typing import Any

import pytest

from mloptimizer.app.requirements import check_images, check_machine
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import Slot
from mloptimizer.hardware.read.nvml import Gpu


def gpu(capability: tuple[int, int] | None) -> Gpu:
    return Gpu(0, "GPU-0", "Tesla", 16_000, capability, None, None)


def refusal(check: Callable[..., None], settings: dict[str, Any], *facts: object) -> str:
    with pytest.raises(UsageError) as caught:
        check(Settings(**settings), *facts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tf32_needs_a_gpu() -> None:
    said = refusal(check_machine, {"precision": "tf32"}, [])
    assert said.startswith("precision = tf32: ") and said.endswith(" auto or float32.")


def test_tf32_needs_ampere_or_newer() -> None:
    said = refusal(check_machine, {"precision": "tf32"}, [gpu((7, 5))])
    assert said == (
        "precision = tf32: needs GPUs of compute capability 8.0 or more; this machine has Tesla with 7.5. "
        "Possible: auto, float32 or mixed_float16."
    )


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), None], ids=["ampere", "hopper", "not told"])
def test_tf32_is_possible_unless_the_driver_says_otherwise(capability: tuple[int, int] | None) -> None:
    check_machine(Settings(precision="tf32"), [gpu((8, 6)), gpu(capability)])


def test_of_several_gpus_the_one_without_tf32_is_named() -> None:
    older = Gpu(1, "GPU-1", "Turing", 16_000, (7, 5), None, None)
    said = refusal(check_machine, {"precision": "tf32"}, [gpu((8, 0)), older])
    assert "Turing with 7.5" in said and "Tesla" not in said


def test_a_limit_above_the_memory_of_the_smallest_gpu_is_refused() -> None:
    large = Gpu(1, "GPU-1", "H100", 80_000, (9, 0), None, None)
    said = refusal(check_machine, {"gpu_memory_limit_mb": 16_001}, [large, gpu((7, 5))])
    assert said == "gpu_memory_limit_mb = 16001: Tesla has 16000 MB. Possible: auto, or at most 16000."
    check_machine(Settings(gpu_memory_limit_mb=16_000), [large, gpu((7, 5))])


def test_a_gpu_that_does_not_tell_its_memory_may_have_any_limit() -> None:
    check_machine(Settings(gpu_memory_limit_mb=4000), [Gpu(0, "GPU-0", None, 0, None, None, None)])


def test_a_limit_of_a_gpu_that_is_not_there_is_refused() -> None:
    assert "gpu_memory_limit_mb = 4000: this machine has no GPU" in refusal(
        check_machine, {"gpu_memory_limit_mb": 4000}, []
    )
    check_machine(Settings(gpu_memory_limit_mb=4000), [gpu((7, 5))])


def test_trials_that_share_gpus_need_one() -> None:
    assert refusal(check_machine, {"trials_per_gpu": 2}, []).startswith("trials_per_gpu = 2: ")
    check_machine(Settings(trials_per_gpu="auto"), [])


def test_the_limits_of_trials_that_share_a_gpu_must_fit_into_it_together() -> None:
    said = refusal(check_machine, {"trials_per_gpu": 3, "gpu_memory_limit_mb": 6000}, [gpu((7, 5))])
    assert said.startswith("gpu_memory_limit_mb = 6000: ") and "16000 MB" in said and "at most 5333." in said
    check_machine(Settings(trials_per_gpu=3, gpu_memory_limit_mb=5333), [gpu((7, 5))])


@pytest.mark.parametrize("precision", ["auto", "float32", "mixed_float16", "mixed_bfloat16"])
def test_other_precisions_run_everywhere(precision: str) -> None:
    check_machine(Settings(precision=precision), [])


def test_more_replicas_than_training_images_are_refused() -> None:
    assert "5 training images are too few for 8 replicas" in refusal(check_images, {"cpu_replicas": 8}, Slot("cpu"), 5)
    two = Slot("gpus", gpu_ids=("a", "b"))
    assert "Possible: at most 1 replicas" in refusal(check_images, {}, two, 1)
    check_images(Settings(), two, 2)


def test_a_step_that_the_stated_micro_batches_do_not_divide_is_refused() -> None:
    stated = {"batch_size": 62, "accumulation_steps": 4}
    assert "batch_size = 60 or 64" in refusal(check_images, stated, Slot("cpu"), 1000)
    two = Slot("gpus", gpu_ids=("a", "b"))
    assert "batch_size = 60 or 64" in refusal(check_images, stated, two, 1000)  # each exploration has one
    check_images(Settings(**stated, gpus_per_trial=2), two, 1000)
