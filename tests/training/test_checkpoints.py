"""Interrupted trials resume from their last whole checkpoint as if nothing had happened."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, EpochRecord
from mloptimizer.core.nouns import DatasetInfo, Outcome, Phase, Slot, TrialPlan, to_json
from mloptimizer.core.trial_files import CHECKPOINTS
from mloptimizer.training.checkpoints.checkpoint_files import (
    Checkpoint,
    DamagedCheckpoint,
    read_checkpoint,
    write_checkpoint,
)
from mloptimizer.training.checkpoints.saving import SHAPING_SETTINGS, TrainingState, identify_training
from mloptimizer.training.devices import configure_devices
from mloptimizer.training.step.optimizers import make_optimizer
from mloptimizer.training.step.schedule import Steps
from mloptimizer.training.step.training_model import Objectives, TrainableModel
from mloptimizer.training.trial import run_trial
from tests.training.conftest import Run

pytestmark = pytest.mark.slow

TIMES = {"images_per_second", "data_wait_percent"}
NOISY_SPACE = '''"""A convolution with statistics of its own on every replica, and dropout."""


def sample(trial, dataset):
    return {}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    x = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(8, 3, strides=2)(images))
    x = layers.Dropout(0.3)(layers.Flatten()(layers.Activation("gelu")(x)))
    return keras.Model(images, layers.Dense(dataset.classes)(x))
'''


@pytest.fixture
def make_plan(make_training_plan: Any) -> Callable[..., TrialPlan]:
    """Returns a plan of four epochs of the noisy space, in a folder of its name."""

    def make(name: str = "trial", settings: Any = None, **changes: Any) -> TrialPlan:
        plan = make_training_plan(settings, **{"epochs": 4, "space_source": NOISY_SPACE, **changes})
        return replace(plan, directory=str(Path(plan.directory).with_name(name)))

    return make


@pytest.fixture
def interrupted(run: Any) -> Callable[[TrialPlan, int], Any]:
    """Returns a function that stops the plan's trial in the epoch after the given one."""

    def cut(plan: TrialPlan, epochs: int) -> Any:
        events: list[Any] = []

        def should_stop() -> bool:
            return sum(isinstance(event, EpochRecord) for event in events) >= epochs

        done = run(plan, should_stop, events)
        assert done.result.outcome is Outcome.PRUNED
        assert len(done.epochs) == epochs
        return done

    return cut


@pytest.fixture
def resumed(completed: Any) -> Callable[..., Any]:
    """Returns a function that resumes the plan's trial, of which the given number of epochs is recorded, or all."""

    def resume(plan: TrialPlan, recorded: int | None = None) -> Any:
        known = plan.epochs if recorded is None else recorded
        return completed(replace(plan, resumes=True, attempt=plan.attempt + 1, recorded_epochs=known))

    return resume


def files(plan: TrialPlan) -> list[Path]:
    return sorted((Path(plan.directory) / CHECKPOINTS).iterdir())


def names(plan: TrialPlan) -> list[str]:
    return [path.name for path in files(plan)]


def choices(done: Any) -> list[str]:
    return [event.choice for event in done.events if isinstance(event, Decision) and event.topic == "checkpoint"]


def weights(path: str) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(np.array(item)) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same(found: Any, wanted: Any, first_epoch: int) -> None:
    """Compare the epochs from the first one on, the result, and the best weights."""
    assert [epoch.epoch for epoch in found.epochs] == [epoch.epoch for epoch in wanted.epochs[first_epoch - 1 :]]
    for mine, other in zip(found.epochs, wanted.epochs[first_epoch - 1 :], strict=True):
        for metric in set(other.metrics) - TIMES:
            assert mine.metrics[metric] == pytest.approx(other.metrics[metric], abs=1e-6, nan_ok=True), metric
    assert found.result.value == pytest.approx(wanted.result.value, abs=1e-6)
    for mine, other in zip(weights(found.result.weights), weights(wanted.result.weights), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"ema_momentum": 0.9, "accumulation_steps": 2}, {"learning_rate": 0.02}),
        ({"cpu_replicas": 2, "batch_size": 32, "ema_momentum": 0.9}, {"learning_rate": 0.02}),
        ({"cpu_replicas": 2, "batch_size": 16, "schedule": "plateau", "warmup_epochs": 0}, {"learning_rate": 0.3}),
        ({"steps_per_execution": 3, "objective": "val_loss"}, {"optimizer": "sgd"}),
    ],
    ids=["average and micro-batches", "two devices with an average", "two devices on a plateau", "three steps a call"],
)
def test_an_interrupted_trial_gives_the_metrics_of_an_unbroken_one(
    make_plan: Any, completed: Any, interrupted: Any, resumed: Any, settings: Any, params: Any
) -> None:
    more = {"params": params, "patience": 2 if "schedule" in settings else 9}
    wanted = completed(make_plan("unbroken", settings, **more))
    plan = make_plan("broken", settings, **more)
    interrupted(plan, 2)
    found = resumed(plan)
    assert [choice.split()[-1] for choice in choices(found)] == ["2"]
    assert_same(found, wanted, 3)


def test_epochs_that_were_not_recorded_are_emitted_from_the_checkpoint(
    make_plan: Any, completed: Any, resumed: Any
) -> None:
    wanted = completed(plan := make_plan(epochs=3))
    assert [epoch.epoch for epoch in resumed(plan, recorded=1).epochs] == [2, 3]
    found = resumed(plan, recorded=0)
    assert [(epoch.epoch, epoch.metrics) for epoch in found.epochs] == [(e.epoch, e.metrics) for e in wanted.epochs]
    assert found.result.value == wanted.result.value


def test_the_loss_scale_of_half_precision_is_resumed(
    make_plan: Any, completed: Any, interrupted: Any, resumed: Any
) -> None:
    settings = {"precision": "mixed_float16"}
    wanted = completed(make_plan("unbroken", settings, epochs=3))
    plan = make_plan("broken", settings, epochs=3)
    interrupted(plan, 1)
    kept = read_checkpoint(files(plan)[0]).arrays["model"]
    assert any(array.size == 1 and array.item() == 2**15 for array in kept)
    assert_same(resumed(plan), wanted, 2)


BAD_STEPS = """
    class BadSteps(layers.Layer):
        def build(self, shape):
            self.steps = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

        def call(self, x, training=False):
            if training:
                self.steps.assign_add(1)
            bad = (self.steps >= 10) & (self.steps <= 15) & training
            return keras.ops.where(bad, float("nan"), x)

    images = keras.Input(dataset.input_shape)
    x = BadSteps()(images)
"""


def test_weights_from_before_the_checkpoint_can_still_come_back(
    make_plan: Any, completed: Any, interrupted: Any, resumed: Any
) -> None:
    source = NOISY_SPACE.replace("    images = keras.Input(dataset.input_shape)\n", BAD_STEPS).replace(
        "strides=2)(images)", "strides=2)(x)"
    )  # the last step of the second epoch, and all five of the third
    wanted = completed(make_plan("unbroken", {"nan_patience": 6}, space_source=source))
    assert wanted.curve("skipped_steps") == [0, 1, 5, 1]
    assert wanted.decision("stability").choice.startswith("back ")
    plan = make_plan("broken", {"nan_patience": 6}, space_source=source)
    interrupted(plan, 2)
    assert_same(resumed(plan), wanted, 3)


def test_a_resumed_warm_start_keeps_its_best_state(
    make_plan: Any, completed: Any, interrupted: Any, resumed: Any
) -> None:
    start = completed(make_plan("start", params={"learning_rate": 0.01})).result.weights
    changes = {"initial_weights": start, "params": {"learning_rate": 0.1}, "epochs": 2}
    wanted = completed(make_plan("unbroken", **changes))
    plan = make_plan("broken", **changes)
    interrupted(plan, 1)
    assert_same(resumed(plan), wanted, 2)


def test_a_training_that_xla_cannot_compile_resumes_without_xla(
    make_plan: Any, completed: Any, interrupted: Any, resumed: Any
) -> None:
    layer = "layers.Lambda(lambda y: tf.ensure_shape(tf.py_function(lambda z: 2.0 * z, [y], tf.float32), y.shape))"
    source = NOISY_SPACE.replace("import keras\n", "import keras\n    import tensorflow as tf\n").replace(
        "strides=2)(images)", f"strides=2)({layer}(images))"
    )
    changes = {"settings": {"xla": "on"}, "space_source": source, "epochs": 2}
    wanted = completed(make_plan("unbroken", **changes))
    plan = make_plan("broken", **changes)
    interrupted(plan, 1)
    found = resumed(plan)
    assert found.decision("XLA").choice == "off"
    assert_same(found, wanted, 2)


# --- a killed process

KILLED = """
import json, os, signal, sys
from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Phase, Slot, TrialPlan, dataset_from_json
from mloptimizer.config.settings import Settings
from mloptimizer.training.trial import run_trial

plan = json.loads(sys.argv[1])
plan["dataset"], plan["settings"] = dataset_from_json(plan["dataset"]), Settings.model_validate(plan["settings"])
plan["phase"] = Phase(plan["phase"])


def emit(event):
    if isinstance(event, EpochRecord) and event.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)


run_trial(TrialPlan(**plan), Slot("cpu0", cpu_ids=(0, 1)), emit, lambda: False)
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, digits: DatasetInfo) -> Run:
    """Returns what the trial of four epochs gives that nothing cuts off."""
    plan = noisy_plan(tmp_path_factory.mktemp("unbroken") / "trial", digits)
    events: list[Any] = []
    return Run(run_trial(plan, Slot("cpu0", cpu_ids=(0, 1)), events.append, lambda: False), events)


def noisy_plan(folder: Path, digits: DatasetInfo) -> TrialPlan:
    return TrialPlan(
        "test", 7, Phase.EXPLORATION, "tiny", NOISY_SPACE, {}, digits, 4, 10, 1, str(folder), settings=Settings()
    )


def test_a_killed_process_loses_only_the_epoch_that_was_not_reported(
    make_plan: Any, resumed: Any, unbroken: Run
) -> None:
    plan = make_plan("killed")
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(to_json(plan))], check=False)
    assert done.returncode == -signal.SIGKILL
    found = resumed(plan)
    assert [choice.split()[-1] for choice in choices(found)] == ["2"]
    assert_same(found, unbroken, 3)


def test_an_epoch_is_reported_when_the_checkpoint_before_it_is_on_the_disk(
    make_plan: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[Any] = []

    def write_slowly(path: Path, checkpoint: Checkpoint) -> None:
        time.sleep(0.5)  # longer than an epoch: without waiting for it the order would be another
        write_checkpoint(path, checkpoint)
        story.append(path.name)

    monkeypatch.setattr("mloptimizer.training.checkpoints.checkpoint_files.write_checkpoint", write_slowly)
    run(make_plan(epochs=3), events=story)
    reported = [event.epoch if isinstance(event, EpochRecord) else event for event in story]
    assert [item for item in reported if isinstance(item, (int, str))] == [
        *(1, "epoch_00001.ckpt", 2, "epoch_00002.ckpt", 3, "epoch_00003.ckpt")
    ]


# --- when there is a checkpoint, and how many


def test_the_newest_two_checkpoints_stay(make_plan: Any, completed: Any) -> None:
    plan = make_plan(epochs=5, settings={"checkpoint_epochs": 2})
    completed(plan)
    assert names(plan) == ["epoch_00004.ckpt", "epoch_00005.ckpt"]  # the last epoch has one too


def test_no_checkpoints_are_taken_if_they_are_off(make_plan: Any, completed: Any) -> None:
    plan = make_plan(epochs=1, settings={"checkpoint_epochs": 0})
    assert "checkpoint" not in completed(plan).result.timings
    assert not (Path(plan.directory) / CHECKPOINTS).exists()


@pytest.mark.parametrize("params", [{}, {"learning_rate": 0.0}], ids=["by its epochs", "by the patience"])
def test_a_training_that_had_ended_goes_straight_to_its_result(
    make_plan: Any, completed: Any, resumed: Any, params: Any
) -> None:
    plan = make_plan(epochs=2, patience=1, params=params) if params else make_plan(epochs=1)
    first = completed(plan)
    wanted = weights(first.result.weights)
    Path(first.result.weights).unlink()
    found = resumed(plan)
    assert (found.epochs, found.result.value, found.result.metrics) == ([], first.result.value, first.result.metrics)
    assert all(np.array_equal(*pair) for pair in zip(weights(found.result.weights), wanted, strict=True))


def test_a_training_that_starts_anew_removes_what_was_left(make_plan: Any, completed: Any) -> None:
    plan = make_plan(epochs=1)
    folder = Path(plan.directory) / CHECKPOINTS
    folder.mkdir(parents=True)
    for name in ("epoch_00009.ckpt", ".epoch_00010.ckpt.half"):
        (folder / name).write_text("left")
    completed(plan)
    assert names(plan) == ["epoch_00001.ckpt"]


def test_a_folder_that_cannot_be_written_does_not_end_the_training(make_plan: Any, completed: Any) -> None:
    plan = make_plan(epochs=3)
    Path(plan.directory).mkdir()
    (Path(plan.directory) / CHECKPOINTS).write_text("in the way")
    done = completed(plan)
    assert len(done.epochs) == 3
    assert choices(done) == ["skipped"]  # reported once
    assert str(Path(plan.directory) / CHECKPOINTS) in done.decision("checkpoint").reason


# --- damage


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory, digits: DatasetInfo) -> TrialPlan:
    """Returns the plan of a trial that was stopped in its third epoch."""
    plan = noisy_plan(tmp_path_factory.mktemp("left") / "trial", digits)
    events: list[Any] = []

    def should_stop() -> bool:
        return any(isinstance(event, EpochRecord) and event.epoch == 2 for event in events)

    run_trial(plan, Slot("cpu0", cpu_ids=(0, 1)), events.append, should_stop)
    return plan


@pytest.fixture
def left(left_behind: TrialPlan, tmp_path: Path) -> TrialPlan:
    """Returns the same with a folder of the test's own."""
    shutil.copytree(left_behind.directory, tmp_path / "trial")
    return replace(left_behind, directory=str(tmp_path / "trial"), resumes=True, recorded_epochs=4)


@pytest.fixture
def choices_of(run: Any) -> Callable[[TrialPlan], list[tuple[str, str]]]:
    """Returns a function that gives what the plan's trial decides about checkpoints, and why, before its first step."""

    def find(plan: TrialPlan) -> list[tuple[str, str]]:
        events = run(plan, lambda: True).events
        return [(event.choice, event.reason) for event in events if getattr(event, "topic", "") == "checkpoint"]

    return find


def flip_bit(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def cut_short(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def test_a_stopped_trial_leaves_whole_files_that_say_what_they_are(left: TrialPlan) -> None:
    assert names(left) == ["epoch_00001.ckpt", "epoch_00002.ckpt"]
    for epoch, path in enumerate(files(left), 1):
        assert read_checkpoint(path).epoch == epoch
        with path.open("rb") as file:
            header = json.loads(file.readline())
        assert header["versions"]["keras"] == keras.__version__
        assert (header["identity"]["study"], header["identity"]["number"]) == ("test", 7)


@pytest.mark.parametrize("place", [0.0, 0.01, 0.2, 0.5, 0.9, 1.0])
def test_every_flipped_bit_is_found(left: TrialPlan, place: float) -> None:
    flip_bit(files(left)[-1], place)
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(files(left)[-1])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_every_missing_end_is_found(left: TrialPlan, share: float) -> None:
    cut_short(files(left)[-1], share)
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(files(left)[-1])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(left: TrialPlan, completed: Any, unbroken: Run) -> None:
    cut_short(files(left)[-1], 0.7)
    (files(left)[0].parent / ".epoch_00003.ckpt.half").write_text("what a kill left")
    found = completed(left)
    assert choices(found) == ["epoch_00002.ckpt passed over", "on from epoch 1"]
    assert_same(found, unbroken, 2)
    assert names(left) == ["epoch_00003.ckpt", "epoch_00004.ckpt"]


def test_without_a_whole_checkpoint_the_training_starts_anew(left: TrialPlan, completed: Any, unbroken: Run) -> None:
    flip_bit(files(left)[0], 0.9)
    cut_short(files(left)[1], 0.9)
    found = completed(left)
    assert [choice.split()[0] for choice in choices(found)] == ["epoch_00002.ckpt", "epoch_00001.ckpt", "from"]
    assert_same(found, unbroken, 1)


def test_a_folder_without_checkpoints_means_to_start_anew(left: TrialPlan, choices_of: Any) -> None:
    shutil.rmtree(left.directory)
    assert [choice for choice, _ in choices_of(left)] == ["from the start"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"number": 8}, "it is of another training: number 7, not 8"),
        ({"params": {"learning_rate": 0.5}}, "parameters"),
        ({"settings": Settings(batch_size=32)}, "global batch 64, not 32"),
        ({"steps_per_epoch": 2}, "steps per epoch 5, not 2"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(
    left: TrialPlan, choices_of: Any, changes: Any, reason: str
) -> None:
    found = choices_of(replace(left, **changes))
    assert [choice.split()[-2:] for choice, _ in found] == [["passed", "over"], ["passed", "over"], ["the", "start"]]
    assert all(reason in why for _, why in found[:2])


def test_what_does_not_change_the_training_may_change(left: TrialPlan) -> None:
    steps = Steps(64, 5, 20, 1.0)
    settings = left.settings.model_copy(update={"workers": 3, "checkpoint_epochs": 4, "max_hours": 2.0})
    other = replace(left, attempt=4, directory="elsewhere", accumulation_steps=2, settings=settings)
    assert (
        identify_training(other, steps)
        == identify_training(left, steps)
        != identify_training(replace(left, seed=2), steps)
    )
    assert set(SHAPING_SETTINGS) <= set(Settings.model_fields)


def test_a_network_of_another_shape_is_refused(left: TrialPlan, choices_of: Any) -> None:
    for path in files(left):
        checkpoint = read_checkpoint(path)
        arrays = [*checkpoint.arrays["model"]]
        arrays[0] = arrays[0][..., :-1]
        write_checkpoint(path, replace(checkpoint, arrays={**checkpoint.arrays, "model": arrays}))
    assert [choice.split()[-2:] for choice, _ in choices_of(left)[:2]] == [["passed", "over"]] * 2


# --- the state


def make_model(devices: Any) -> TrainableModel:
    with devices.scope():
        images = keras.Input((4,))
        network = keras.Model(images, keras.layers.Dense(3)(keras.layers.BatchNormalization()(images)))
        model = TrainableModel(network, Objectives(3, 2))
        optimizer = make_optimizer({}, 0.1, model.trainable_variables, Settings(), scale_loss=False)
        model.compile(optimizer, auto_scale_loss=False)
    return model


def test_replicas_that_differ_get_their_own_values_back(tmp_path: Path) -> None:
    devices = configure_devices(Slot("cpu0"), 2, lambda *_: None)
    model, other = make_model(devices), make_model(devices)

    def means(of: TrainableModel) -> list[list[float]]:
        value = of.non_trainable_variables[0].value
        return [copy.numpy().tolist() for copy in devices.strategy.experimental_local_results(value)]

    value = model.non_trainable_variables[0].value
    for replica, copy in enumerate(devices.strategy.experimental_local_results(value)):
        copy.assign([float(replica)] * 4)
    write_checkpoint(tmp_path / "epoch_00001.ckpt", TrainingState(model, model, {}).take(1, {}))
    checkpoint = read_checkpoint(tmp_path / "epoch_00001.ckpt")
    state = TrainingState(other, other, {})
    assert state.find_misfit(checkpoint) == ""
    state.put_back(checkpoint)
    assert means(other) == means(model) == [[0.0] * 4, [1.0] * 4]
    one = make_model(configure_devices(Slot("cpu0"), 1, lambda *_: None))
    assert TrainingState(one, one, {}).find_misfit(checkpoint) == "it is of 2 replicas that differ, and there are 1"
