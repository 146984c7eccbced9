from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.app.probe_checks import check_tensorflow, run_probe
from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check
from mloptimizer.hardware.read.nvml import Gpu

H200 = Gpu(0, "GPU-0", "NVIDIA H200", 143771, (9, 0), "580.1", None)


def make_facts(gpus: int = 0, **changes: Any) -> dict[str, Any]:
    """Returns what the probe says on a sound machine with so many GPUs."""
    facts = {
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "cuda_build": "12.5.1",
        "cudnn_build": "9",
        "gpus": [{"name": "NVIDIA H200", "compute_capability": [9, 0]}] * gpus,
        "precision": {"float32": True, **({"mixed_float16": True, "mixed_bfloat16": True} if gpus else {})},
        "xla": True,
        "nccl": True if gpus > 1 else None,
    }
    return facts | changes


def check_of(name: str, facts: dict[str, Any], gpus: int = 0, **settings: Any) -> Check:
    checks = check_tensorflow(facts, [H200] * gpus, Settings(**settings))
    return next(check for check in checks if check.name == name)


@pytest.mark.slow
def test_the_probe_answers_from_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a file of the current folder was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    facts = run_probe()
    assert facts["precision"] == {"float32": True}
    assert (facts["gpus"], facts["nccl"], facts["xla"]) == ([], None, True)
    assert all(check.ok is not False for check in check_tensorflow(facts, [], Settings()))


def test_a_probe_that_hangs_is_given_up() -> None:
    assert run_probe(timeout_seconds=0.01) == {"error": "did not answer within 0.01 s"}


def test_a_tensorflow_that_cannot_be_imported_is_told_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libcudart.so.12 is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = run_probe()
    assert facts == {"error": "ImportError: libcudart.so.12 is broken"}
    assert check_tensorflow(facts, [], Settings())[0].ok is False


AMD = "an AMD GPU is here"


@pytest.mark.parametrize(("seen", "found"), [(0, ""), (1, "TensorFlow sees 1; ")])
def test_a_gpu_of_another_vendor_is_told_from_none(seen: int, found: str) -> None:
    checks = check_tensorflow(make_facts(seen), [], Settings(), AMD)
    (gpus,) = (check for check in checks if check.name == "GPUs")
    assert (gpus.ok, gpus.found) == (None, f"{found}{AMD}: trials train on the CPU")
    broken = check_tensorflow({"error": "it crashed"}, [], Settings(), AMD)[1]
    assert broken.found == f"{AMD}: trials train on the CPU"


@pytest.mark.parametrize("seen", [0, 1])
def test_instances_of_a_partitioned_gpu_are_told_with_their_numbers(seen: int) -> None:
    instances = [replace(H200, uuid=f"MIG-{gi}", mig=True, parent="GPU-0", instance=(gi, 0)) for gi in (7, 8)]
    checks = check_tensorflow(make_facts(seen), instances, Settings())
    (gpus,) = (check for check in checks if check.name == "GPUs")
    assert gpus.ok is (None if seen else False)  # TensorFlow sees one of them at most
    assert "0.7.0: NVIDIA H200" in gpus.found and "0.8.0: NVIDIA H200" in gpus.found


def test_a_machine_without_gpus_is_sound() -> None:
    checks = check_tensorflow(make_facts(), [], Settings())
    assert [check.name for check in checks if check.ok is False] == []
    assert check_of("GPUs", make_facts()).ok is None


def test_a_machine_with_gpus_is_sound() -> None:
    checks = check_tensorflow(make_facts(2), [H200, H200], Settings())
    assert [check.ok for check in checks] == [True] * 5
    assert "0: NVIDIA H200, 140 GB, compute capability 9.0" in check_of("GPUs", make_facts(2), 2).found


def test_gpus_that_tensorflow_does_not_see_need_the_gpu_build() -> None:
    check = check_of("GPUs", make_facts(0), gpus=1)
    assert check.ok is False
    assert "lists 1" in check.found
    assert "TensorFlow sees 0" in check.found
    assert check.advice == "pip install 'mloptimizer[gpu]'"


def test_gpus_that_nvml_does_not_list_need_the_driver() -> None:
    check = check_of("GPUs", make_facts(1), gpus=0)
    assert (check.ok, "libnvidia-ml.so.1" in check.advice) == (False, True)


def test_a_broken_nccl_is_told_with_a_way_round() -> None:
    check = check_of("NCCL", make_facts(2, nccl="InternalError: NCCL: unhandled system error"), 2)
    assert (check.ok, check.found) == (False, "InternalError: NCCL: unhandled system error")
    assert "--set gpus_per_trial=1" in check.advice


@pytest.mark.parametrize(("setting", "ok"), [("auto", None), ("on", False), ("off", None)])
def test_a_broken_xla_is_wrong_only_where_it_is_asked_for(setting: str, ok: bool | None) -> None:
    assert check_of("XLA", make_facts(xla="InvalidArgumentError: no libdevice"), xla=setting).ok is ok


def test_a_mixed_precision_on_a_cpu_is_noted() -> None:
    check = check_of("precision", make_facts(), precision="mixed_float16")
    assert (check.ok, check.advice) == (None, "--set precision=auto")


@pytest.mark.parametrize(("capability", "chosen"), [([9, 0], "mixed_float16"), ([6, 1], "float32")])
def test_tensor_cores_decide_the_precision(capability: list[int], chosen: str) -> None:
    facts = make_facts(1) | {"gpus": [{"name": "a GPU", "compute_capability": capability}]}
    assert check_of("precision", facts, 1).found.endswith(f"trials use {chosen}")
