"""The environment of a worker; nothing here needs TensorFlow."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Slot, TrialPlan
from mloptimizer.training.worker import plan_environment, slot_environment

MakePlan = Callable[..., TrialPlan]


def test_a_worker_sees_the_gpus_of_its_slot_and_no_others() -> None:
    assert slot_environment(Slot("gpus", gpu_ids=("GPU-a", "GPU-b")))["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert slot_environment(Slot("cpu"))["CUDA_VISIBLE_DEVICES"] == "-1"


def test_what_xla_compiles_is_kept_in_the_studys_cache(make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "my study" / "cache"
    flags = plan_environment(make_plan(cache_directory=str(folder)), "--tf_xla_auto_jit=2")["TF_XLA_FLAGS"]
    assert flags == f'--tf_xla_auto_jit=2 --tf_xla_persistent_cache_directory="{folder}/xla"'
    assert (folder / "xla").is_dir()


def test_a_cache_that_the_user_named_stays(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(cache_directory=str(tmp_path / "cache"))
    assert plan_environment(plan, "--tf_xla_persistent_cache_directory=/mine") == {}


@pytest.mark.parametrize(("xla", "folder"), [("off", "cache"), ("auto", "")])
def test_without_xla_or_a_place_nothing_is_kept(make_plan: MakePlan, tmp_path: Path, xla: str, folder: str) -> None:
    directory = str(tmp_path / folder) if folder else ""
    assert plan_environment(make_plan(cache_directory=directory, settings=Settings(xla=xla)), "") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_the_cache_alone(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert plan_environment(make_plan(cache_directory=str(tmp_path / "file" / "cache")), "") == {}


def test_a_process_steps_back_by_its_nice_level() -> None:
    code = (
        "import os; from mloptimizer.training.worker import step_back; "
        "before = os.nice(0); step_back(5); print(os.nice(0) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5"
