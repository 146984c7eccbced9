"""What tuning takes, keeps and hands to a search, on a machine that pretends to train."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.plans import TuningPlan, find_plan, find_tuned, identify_tuning, tuned_settings
from mloptimizer.tuning.tune import apply_tuning, run_tuning, why_not
from tests.pretended_machine import Pretence, make_gpu

Tune = Callable[..., TuningPlan]


@pytest.fixture
def dataset(make_dataset: Callable[..., DatasetInfo]) -> DatasetInfo:
    """A trial of 8 epochs has 400,000 images: 400 s at 1,000 per second."""
    return make_dataset(train_size=50_000)


@pytest.fixture
def find(workspace: Workspace, dataset: DatasetInfo) -> Tune:
    """Returns the plan that is measured with these gains; settings by name."""

    def run(pretence: Pretence, *gpus: Gpu, **settings: Any) -> TuningPlan:
        plan, measured = run_tuning(workspace, dataset, Settings(**settings), pretence.machine(*gpus), again=True)
        assert measured
        return plan

    return run


def findings(plan: TuningPlan) -> dict[str, str]:
    return {row["name"]: row["finding"] for row in plan.rows}


def test_what_is_faster_is_taken_and_its_speed_up_told(find: Tune) -> None:
    plan = find(Pretence({("data_on_device", "on"): 1.5, ("prefetch_batches", 8): 1.2}))
    assert plan.decisions["data_on_device"] == "on"
    assert plan.decisions["prefetch_batches"] == 8
    assert plan.decisions["steps_per_execution"] == 1
    assert plan.speed_up == pytest.approx(1.8, rel=0.01)


def test_less_than_three_percent_keeps_the_simpler_one(find: Tune) -> None:
    plan = find(Pretence({("steps_per_execution", 8): 1.02}))
    assert (plan.decisions["steps_per_execution"], plan.speed_up) == (1, 1.0)
    assert findings(plan)["steps_per_execution = 8"] == "no"


def test_every_factor_is_measured_with_the_best_of_those_before(find: Tune) -> None:
    pretence = Pretence({("data_on_device", "on"): 2.0})
    find(pretence)
    assert [settings.data_on_device for settings in pretence.seen if settings.steps_per_execution == 8] == ["on"]


def test_compiling_that_does_not_pay_in_a_trial_is_left_to_each_training(find: Tune) -> None:
    plan = find(Pretence({("xla", "on"): 1.1}, startup_seconds={("xla", "on"): 60.0}))
    assert "xla" not in plan.decisions
    assert "left to each training" in findings(plan)["xla = on"]


def test_compiling_that_pays_is_taken(find: Tune) -> None:
    assert find(Pretence({("xla", "on"): 1.5}, startup_seconds={("xla", "on"): 60.0})).decisions["xla"] == "on"


def test_a_gain_that_is_not_there_the_second_time_is_not_kept(find: Tune) -> None:
    plan = find(Pretence({("data_on_device", "on"): 2.0}, lucky=3))
    assert (plan.decisions["data_on_device"], plan.speed_up) == ("off", 1.0)
    assert findings(plan)["data_on_device = on"] == "not faster when measured again"


def test_a_variant_that_fails_says_why_and_the_rest_goes_on(find: Tune) -> None:
    plan = find(Pretence({("prefetch_batches", 8): 1.5}, broken=frozenset({("xla", "on")})))
    assert findings(plan)["xla = on"] == "out_of_memory: too large"
    assert plan.decisions["prefetch_batches"] == 8


def test_a_start_that_fails_ends_the_tuning(find: Tune) -> None:
    with pytest.raises(RunError, match="out_of_memory: too large"):
        find(Pretence(broken=frozenset({("xla", "off")})))


def test_what_the_person_has_set_is_not_measured(find: Tune) -> None:
    pretence = Pretence({("xla", "on"): 5.0})
    plan = find(pretence, xla="off", precision="float32")
    assert not {"xla", "precision"} & plan.decisions.keys()
    assert {settings.xla for settings in pretence.seen} == {"off"}


def test_an_automatic_batch_grows_while_it_pays(find: Tune) -> None:
    gains = {("batch_size", 128): 1.5, ("batch_size", 256): 1.6, ("batch_size", 512): 1.0}
    plan = find(Pretence(gains, broken=frozenset({("batch_size", 512)})), batch_size="auto")
    assert plan.decisions["batch_size"] == 256
    assert "batch_size = 1024" not in findings(plan), "a larger one than what failed"


def test_on_a_gpu_a_larger_batch_is_told_but_the_set_one_stays(find: Tune) -> None:
    plan = find(Pretence({("batch_size", 256): 3.0}), make_gpu((9, 0)))
    assert "batch_size" not in plan.decisions
    assert findings(plan)["batch_size = 256"] == "faster, but batch_size = 64 is set"


def test_precisions_are_tried_where_the_gpu_has_units_for_them(find: Tune) -> None:
    plan = find(Pretence({("precision", "mixed_float16"): 2.0}), make_gpu((7, 5)))
    assert plan.decisions["precision"] == "mixed_float16"
    assert findings(plan)["precision = tf32"] == "not measured: needs compute capability 8.0, and this GPU's is 7.5"


@pytest.mark.parametrize(
    ("capability", "possible"),
    [(None, []), ((6, 1), []), ((7, 0), ["mixed_float16"]), ((8, 6), ["tf32", "mixed_bfloat16", "mixed_float16"])],
)
def test_the_compute_capability_decides_what_is_tried(capability: Any, possible: list[str]) -> None:
    names = ("tf32", "mixed_bfloat16", "mixed_float16")
    assert [name for name in names if not why_not(name, [make_gpu(capability)])] == possible
    assert all(why_not(name, []) for name in names)


def test_a_second_tuning_measures_nothing_unless_told(find: Tune, workspace: Workspace, dataset: DatasetInfo) -> None:
    first = find(Pretence())
    pretence = Pretence()
    assert run_tuning(workspace, dataset, Settings(), pretence.machine()) == (first, False)
    assert pretence.seen == []
    assert run_tuning(workspace, dataset, Settings(), pretence.machine(), again=True)[1]


def test_another_model_has_a_plan_of_its_own(find: Tune, workspace: Workspace, dataset: DatasetInfo) -> None:
    find(Pretence())
    assert run_tuning(workspace, dataset, Settings(), Pretence().machine(), space="cnn")[1]
    assert {plan["model"] for plan in json.loads(workspace.tuning_file.read_text())["plans"]} == {
        "the built-in resnet",
        "cnn",
    }


@pytest.mark.parametrize("changes", [{"input_shape": (9, 8, 1)}, {"classes": 9}])
def test_another_shape_needs_another_plan(
    find: Tune, workspace: Workspace, make_dataset: Callable[..., DatasetInfo], changes: Any
) -> None:
    find(Pretence())
    machine = Pretence().machine()
    assert find_plan(workspace, identify_tuning(machine, make_dataset(train_size=9), Settings(trials=3)))
    assert find_plan(workspace, identify_tuning(machine, make_dataset(**changes), Settings())) is None


def test_other_gpus_or_settings_need_another_plan(find: Tune, workspace: Workspace, dataset: DatasetInfo) -> None:
    find(Pretence(), make_gpu((9, 0)))
    for gpus in ((), (make_gpu((9, 0)), make_gpu((9, 0))), (make_gpu((9, 0), name="another"),)):
        assert find_plan(workspace, identify_tuning(Pretence().machine(*gpus), dataset, Settings())) is None
    machine = Pretence().machine(make_gpu((9, 0)))
    assert find_plan(workspace, identify_tuning(machine, dataset, Settings(batch_size=32))) is None


def test_a_plan_of_the_version_before_whose_key_told_less_is_not_found(
    find: Tune, workspace: Workspace, dataset: DatasetInfo
) -> None:
    find(Pretence({("prefetch_batches", 8): 2.0}))
    kept = json.loads(workspace.tuning_file.read_text())
    identity = kept["plans"][0]["identity"]
    identity["settings"] = identity.pop("training settings")
    workspace.tuning_file.write_text(json.dumps(kept))
    assert apply_tuning(workspace, dataset, Settings(), Pretence().machine) == (Settings(), [])


def test_a_damaged_file_is_told(find: Tune, workspace: Workspace, dataset: DatasetInfo) -> None:
    find(Pretence())
    workspace.tuning_file.write_text('{"plans": [{"identity": 3}]}')
    with pytest.raises(UsageError, match="is not what `mloptimizer tune` writes"):
        apply_tuning(workspace, dataset, Settings(), Pretence().machine)


def test_two_tunings_at_once_are_refused(find: Tune, workspace: Workspace) -> None:
    with hold_lock(workspace.tuning_file.with_suffix(".lock"), ""), pytest.raises(UsageError, match="autotune=off"):
        find(Pretence())


def test_a_plan_fills_in_what_is_auto_and_says_why(find: Tune) -> None:
    plan = find(Pretence({("prefetch_batches", 8): 1.5, ("data_on_device", "on"): 1.5}))
    settings, decisions = tuned_settings(Settings(data_on_device="off"), plan)
    assert (settings.prefetch_batches, settings.data_on_device) == (8, "off")
    assert ("prefetch_batches", "8") in [(decision.topic, decision.choice) for decision in decisions]
    assert "2.24 times" in decisions[0].reason
    _, decisions = tuned_settings(Settings(), find(Pretence()))
    assert "nothing was faster" in decisions[0].reason


def test_a_plan_that_conflicts_with_what_is_set_is_left_out(find: Tune) -> None:
    plan = find(Pretence({("xla", "on"): 2.0}))
    settings = Settings(check_numerics=True)
    assert tuned_settings(settings, plan)[0] == settings


def test_a_search_on_a_gpu_tunes_once(workspace: Workspace, dataset: DatasetInfo) -> None:
    pretence = Pretence({("xla", "on"): 2.0})
    machine = pretence.machine(make_gpu((9, 0)))
    assert apply_tuning(workspace, dataset, Settings(), lambda: machine)[0].xla == "on"
    measured = len(pretence.seen)
    assert apply_tuning(workspace, dataset, Settings(), lambda: machine)[0].xla == "on"
    assert len(pretence.seen) == measured


def test_a_search_on_a_cpu_uses_a_plan_but_makes_none_unless_told(workspace: Workspace, dataset: DatasetInfo) -> None:
    pretence = Pretence({("xla", "on"): 2.0})
    assert apply_tuning(workspace, dataset, Settings(), pretence.machine) == (Settings(), [])
    assert apply_tuning(workspace, dataset, Settings(autotune="on"), pretence.machine)[0].xla == "on"
    assert apply_tuning(workspace, dataset, Settings(), pretence.machine)[0].xla == "on"
    assert apply_tuning(workspace, dataset, Settings(autotune="off"), pretence.machine)[0].xla == "auto"


def test_a_tuning_that_fails_leaves_the_search_as_it_is(workspace: Workspace, dataset: DatasetInfo) -> None:
    pretence = Pretence(broken=frozenset({("xla", "off")}))
    settings, (decision,) = apply_tuning(workspace, dataset, Settings(autotune="on"), pretence.machine)
    assert settings.xla == "auto"
    assert "out_of_memory: too large" in decision.reason


def test_a_study_that_was_tuned_keeps_its_values_whatever_was_tuned_since(
    workspace: Workspace, dataset: DatasetInfo
) -> None:
    pretence = Pretence({("xla", "on"): 2.0})
    apply_tuning(workspace, dataset, Settings(autotune="on"), pretence.machine)
    settings, (decision,) = apply_tuning(workspace, dataset, Settings(), pretence.machine, {"prefetch_batches": 8})
    assert (settings.prefetch_batches, settings.xla) == (8, "auto")
    assert "when it began" in decision.reason


def test_values_that_tuning_kept_give_way_to_what_is_stated_now(workspace: Workspace, dataset: DatasetInfo) -> None:
    kept = {"prefetch_batches": 8, "data_on_device": "on"}
    settings, _ = apply_tuning(workspace, dataset, Settings(data_on_device="off"), Pretence().machine, kept)
    assert find_tuned(Settings(data_on_device="off"), settings) == {"prefetch_batches": 8}
