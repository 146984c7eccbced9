"""What a measurement says, of trainings that are a few lines long."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Decision, Emit, EpochRecord, HardwareSample, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.tuning.measured_model import choose_model
from mloptimizer.tuning.measurement import Measurement, Variant, Workload, measure, this_machine
from tests.pretended_machine import Pretence, make_machine


@pytest.fixture
def workload(make_dataset: Callable[..., DatasetInfo]) -> Workload:
    """Three epochs; the accuracy of 0.5 is reached in the second."""
    space = SearchSpace("line", "", "", lambda trial, dataset: {}, lambda params, dataset: None)
    return Workload(space, {}, make_dataset(), epochs=3, steps_per_epoch=7, target_accuracy=0.5)


@pytest.fixture
def measured(workload: Workload) -> Measurement:
    return measure(workload, Variant("v", Settings()), Pretence().machine())


def test_the_speed_is_that_of_the_steady_pace(measured: Measurement) -> None:
    assert (measured.images_per_second, measured.seconds_per_epoch) == (1000.0, 2.0)


def test_what_the_steady_pace_does_not_explain_is_the_start_up(measured: Measurement) -> None:
    assert measured.startup_seconds == pytest.approx(0.5 + 0.5 + 1.0)


def test_a_training_that_hangs_ends_the_measurement(workload: Workload) -> None:
    def hang(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        told = threading.Event()
        while not should_stop():
            emit(HardwareSample(plan.number, {"seconds": 1.0}))  # rows are no sign of life
            told.wait(0.01)
        return TrialResult(plan.number, Outcome.PRUNED, None, 1.0)

    settings = Settings(hang_minutes=0.001, compile_minutes=0.001)
    assert measure(workload, Variant("v", settings), make_machine(hang)).failure.startswith("hung: no sign of life")


def test_the_time_to_an_accuracy_counts_from_the_start(measured: Measurement) -> None:
    assert measured.seconds_to_target == pytest.approx(0.5 + 0.5 + 3.0 + 2.0)
    assert measured.val_accuracy == pytest.approx(0.9)


def test_an_accuracy_that_is_not_reached_has_no_time(workload: Workload) -> None:
    never = Workload(workload.space, {}, workload.dataset, epochs=2, target_accuracy=0.95)
    assert measure(never, Variant("v", Settings()), Pretence().machine()).seconds_to_target is None


def test_memory_is_the_peak_and_use_the_mean_after_the_first_epoch(measured: Measurement) -> None:
    assert (measured.peak_memory_mb, measured.cpu_percent) == (103.0, 125.0)
    assert (measured.gpu_memory_mb, measured.gpu_percent, measured.data_wait_percent) == (None, None, None)


def test_the_plan_has_the_workload_and_short_intervals(workload: Workload) -> None:
    plans: list[TrialPlan] = []

    def train(plan: TrialPlan, *_: object) -> TrialResult:
        assert Path(plan.directory).is_dir()
        plans.append(plan)
        return TrialResult(plan.number, Outcome.PRUNED, None, 0.0)

    machine = make_machine(train)
    found = measure(workload, Variant("v", Settings(storage="sqlite:///x.db", xla="on")), machine)
    assert found.failure == "it ended before its first epoch did"
    (plan,) = plans
    assert (plan.epochs, plan.steps_per_epoch, plan.settings.xla, plan.settings.storage) == (3, 7, "on", "")
    assert not Path(plan.directory).exists()


def test_a_model_that_needs_small_micro_batches_is_measured_with_them(workload: Workload) -> None:
    plans: list[TrialPlan] = []

    def train(plan: TrialPlan, *_: object) -> TrialResult:
        plans.append(plan)
        return TrialResult(plan.number, Outcome.PRUNED, None, 0.0)

    measure(replace(workload, accumulation_steps=4), Variant("v", Settings()), make_machine(train))
    assert [plan.accumulation_steps for plan in plans] == [4]


def gpu_row(memory: float | None, used: float, percent: float) -> dict[str, float | str | None]:
    return {
        "time_utc": "t",
        "gpu0_process_memory_mb": memory,
        "gpu0_memory_used_mb": used,
        "gpu0_utilization_percent": percent,
        "gpu0_memory_utilization_percent": 1.0,
    }


@pytest.mark.parametrize(("memory", "expected"), [(300.0, 300.0), (None, 900.0)])
def test_a_gpu_has_its_own_memory_and_use(workload: Workload, memory: float | None, expected: float) -> None:
    def train(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        emit(HardwareSample(0, gpu_row(memory, 900.0, 0.0)))
        emit(EpochRecord(0, 1, {"val_accuracy": 0.1, "images_per_second": 5.0, "data_wait_percent": 12.0}, 1.0))
        emit(HardwareSample(0, gpu_row(memory, 800.0, 80.0)))
        emit(Decision(0, "XLA", "off", "compiling failed"))
        return TrialResult(0, Outcome.COMPLETED, 0.1, 1.0)

    machine = make_machine(train)
    found = measure(workload, Variant("v", Settings()), machine)
    assert (found.gpu_memory_mb, found.gpu_percent, found.data_wait_percent) == (expected, 80.0, 12.0)
    assert found.startup_seconds is None, "one epoch does not tell its pace from its start-up"
    assert found.choices == {"XLA": "off"}


def test_a_training_that_fails_is_a_measurement_that_says_why(workload: Workload) -> None:
    machine = Pretence(broken=frozenset({("xla", "on")})).machine()
    found = measure(workload, Variant("XLA", Settings(xla="on")), machine)
    assert (found.failure, found.images_per_second) == ("out_of_memory: too large", None)
    assert found.images_per_second_over(1000) == 0.0


def test_what_is_impossible_here_is_not_tried(workload: Workload) -> None:
    pretence = Pretence()
    found = measure(workload, Variant("tf32", Settings(), {}, "no GPU"), pretence.machine())
    assert (found.failure, pretence.seen) == ("not measured: no GPU", [])


def test_compiling_pays_only_over_enough_images() -> None:
    plain = Measurement("plain", images_per_second=100.0, startup_seconds=1.0)
    compiled = Measurement("compiled", images_per_second=200.0, startup_seconds=11.0)
    assert compiled.images_per_second_over(1_000) < plain.images_per_second_over(1_000)
    assert compiled.images_per_second_over(10_000) > plain.images_per_second_over(10_000)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (224, 224, 3)])
def test_the_measured_model_fits_every_shape(shape: Any, make_dataset: Callable[..., DatasetInfo]) -> None:
    space, params = choose_model(None, make_dataset(input_shape=shape), Path("nowhere"))
    assert space.name == "resnet"
    assert params["stages"] == min(3, 2 if shape[0] == 8 else 3)
    assert params["width"] == 32
    assert params["learning_rate"] == 2e-3


def test_another_space_gives_the_same_draw_every_time(make_dataset: Callable[..., DatasetInfo]) -> None:
    drawn = [choose_model("cnn", make_dataset(), Path("nowhere"))[1] for _ in range(2)]
    assert drawn[0] == drawn[1]
    with pytest.raises(UsageError, match="'resnet'"):
        choose_model("resnt", make_dataset(), Path("nowhere"))


def test_this_machine_measures_on_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = this_machine()
    engine = machine.make_engine(Settings(start_method="spawn", workers=4))
    (slot,) = engine.idle_slots()
    assert len(slot.cpu_ids) == machine.cores
    assert str(machine.cores) in machine.describe()
