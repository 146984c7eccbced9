"""The batches: which images they show, where these lie, and that the place changes nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.nouns import Slot
from mloptimizer.data.library import load_split
from mloptimizer.training.devices import Devices, configure_devices
from mloptimizer.training.input import pipeline
from mloptimizer.training.input.augmentation import Augmentation
from mloptimizer.training.input.pipeline import (
    Images,
    choose_on_device,
    evaluation_batches,
    load_images,
    training_batches,
)
from mloptimizer.training.step.schedule import Steps
from mloptimizer.training.trial_failures import DataError

CPU = Devices("CPU", 1, 2)
GPU = Devices("GPU", 1, 2, memory_mb=4)
STEPS = Steps(16, 3, 6, 1.0)  # of 48 images and more
EVERYTHING = Augmentation(0.5, 3, 7.0, 0.4, 1.0, 0.5)
MIXED = Augmentation(flip_probability=0.5, mixup_alpha=0.4, cutmix_alpha=1.0)
PLAIN = Augmentation()
AUGMENTATIONS = pytest.mark.parametrize("augmentation", [PLAIN, MIXED, EVERYTHING])


def silent(*_: Any) -> None:
    """Takes a decision that the test is not about."""


@pytest.fixture(scope="module")
def photos() -> Images:
    """Returns 50 random colour images of 12 × 10 pixels in 5 classes."""
    random = np.random.default_rng(0)
    pixels = tf.constant(random.integers(0, 256, (50, 12, 10, 3), np.uint8))
    labels = tf.constant(random.integers(0, 5, 50), tf.int32)
    return Images(pixels, labels, np.float32([120, 125, 130]), np.float32([60, 70, 80]), 5)


def batches_of(images: Images, augmentation: Augmentation, count: int = 6, seed: int = 3, **options: Any) -> list[Any]:
    """Return (images, targets) of the first steps."""
    made = training_batches(images, STEPS, seed, CPU, augmentation, **options)
    prepare = made.prepare or (lambda element: element)
    return [prepare(element) for element in made.start(0).take(count)]


def assert_equal(these: list[Any], those: list[Any], tolerance: float = 0.0) -> None:
    for mine, other in zip(these, those, strict=True):
        for part, same in zip(mine, other, strict=True):
            np.testing.assert_allclose(part, same, rtol=0, atol=tolerance)


# --- order


def test_an_epoch_shows_each_image_at_most_once_and_the_next_one_in_another_order(photos: Images) -> None:
    numbered = replace(photos, labels=tf.range(photos.count), classes=photos.count)
    shown = np.argmax([targets for _, targets in batches_of(numbered, PLAIN)], axis=-1).reshape(2, 48)
    assert [len(set(epoch)) for epoch in shown] == [48, 48]
    assert (shown[0] != shown[1]).any()


@AUGMENTATIONS
@pytest.mark.slow
def test_the_seed_makes_the_batches(photos: Images, augmentation: Augmentation) -> None:
    first, again, other = (batches_of(photos, augmentation, seed=seed) for seed in (3, 3, 4))
    assert_equal(first, again)
    assert all(not np.array_equal(mine[0], theirs[0]) for mine, theirs in zip(first, other, strict=True))


def test_an_image_is_changed_differently_every_epoch(photos: Images) -> None:
    one = replace(photos, pixels=tf.repeat(photos.pixels[:1], 50, axis=0))
    (first, _), *_, (last, _) = batches_of(one, Augmentation(crop_padding=3), count=4)
    assert not np.array_equal(first, last)


@pytest.mark.slow
@AUGMENTATIONS
@pytest.mark.parametrize("on_device", [False, True])
def test_the_batch_of_a_step_can_be_made_again(photos: Images, augmentation: Augmentation, on_device: bool) -> None:
    made = training_batches(photos, STEPS, 3, CPU, augmentation, on_device=on_device)
    assert_equal([made.batch(step) for step in (5, 0)], [batches_of(photos, augmentation)[step] for step in (5, 0)])


# --- content


def test_the_training_images_are_standardised(digits: Any) -> None:
    images = load_images(digits, "train", silent)
    (pixels, _), *_ = training_batches(images, Steps(320, 1, 1, 1.0), 3, CPU, PLAIN).start(0).take(1)
    assert (float(tf.reduce_mean(pixels)), float(tf.math.reduce_std(pixels))) == pytest.approx((0, 1), abs=1e-3)


def test_without_augmentation_each_target_belongs_to_its_untouched_image(photos: Images) -> None:
    standardised = (photos.pixels.numpy() - photos.mean) / photos.std
    for pixels, targets in batches_of(photos, PLAIN):
        distances = np.abs(pixels.numpy()[:, None] - standardised).max(axis=(2, 3, 4))
        assert distances.min(axis=1) == pytest.approx(0, abs=1e-5)
        np.testing.assert_array_equal(targets, np.eye(5)[photos.labels.numpy()[distances.argmin(axis=1)]])


@pytest.mark.parametrize("on_device", [False, True])
def test_mixed_targets_say_of_which_classes_an_image_is_made(photos: Images, on_device: bool) -> None:
    shades = tf.cast(tf.broadcast_to(50 * photos.labels[:, None, None, None], photos.pixels.shape), tf.uint8)
    plain = replace(photos, pixels=shades, mean=np.zeros(3, "float32"), std=np.ones(3, "float32"))
    for pixels, targets in batches_of(plain, MIXED, on_device=on_device):
        np.testing.assert_allclose(
            np.mean(pixels, axis=(1, 2, 3)), np.asarray(targets) @ (50 * np.arange(5.0)), rtol=1e-5
        )


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize(("global_batch", "replicas"), [(7, 1), (16, 2), (100, 4)])
def test_the_evaluation_sees_every_image_once(digits: Any, cache: Any, global_batch: int, replicas: int) -> None:
    images = load_images(digits, "validation", silent, cache)
    evaluation = evaluation_batches(images, global_batch, Devices("CPU", replicas, 1))
    batches = list(evaluation.batches.take(evaluation.steps).as_numpy_iterator())
    sizes = {len(labels) for _, labels, _ in batches}
    pixels, labels = (np.concatenate([batch[part][batch[2] > 0] for batch in batches]) for part in (0, 1))
    assert len(sizes) == 1
    assert sizes.pop() % replicas == 0
    expected = load_split(digits, "validation")
    np.testing.assert_array_equal(labels, expected[1])
    np.testing.assert_allclose(pixels, (expected[0] - np.float32(digits.mean)) / np.float32(digits.std), atol=1e-5)


# --- where the images lie


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_disk_gives_the_same_batches_as_the_memory(digits: Any, split: Any) -> None:
    memory, disk = (load_images(digits, split, silent, cache) for cache in ("memory", "disk"))
    assert isinstance(disk.pixels, np.memmap)
    assert memory.count == disk.count == getattr(digits, f"{split}_size")
    assert_equal(batches_of(memory, EVERYTHING), batches_of(disk, EVERYTHING))


@pytest.mark.parametrize(("free_mb", "place"), [(1, "train in memory"), (0, "train on disk")])
def test_images_are_kept_in_memory_if_they_fit_into_a_quarter_of_the_free_memory(
    digits: Any, monkeypatch: pytest.MonkeyPatch, free_mb: int, place: str
) -> None:
    monkeypatch.setattr(pipeline, "available_memory_mb", lambda: free_mb)  # the digits take 0.02 MB
    decisions: list[tuple[str, ...]] = []
    load_images(digits, "train", lambda *decision: decisions.append(decision))
    assert [decision[:2] for decision in decisions] == [("cache", place)]


def test_missing_files_of_a_data_set_are_a_data_error(digits: Any, tmp_path: Any) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        load_images(replace(digits, directory=str(tmp_path)), "train", silent)


@AUGMENTATIONS
@pytest.mark.slow
def test_images_on_the_device_are_those_of_the_pipeline(photos: Images, augmentation: Augmentation) -> None:
    assert_equal(batches_of(photos, augmentation, on_device=True), batches_of(photos, augmentation))


def test_images_on_the_disk_can_be_put_on_the_device(digits: Any) -> None:
    memory, disk = (load_images(digits, "train", silent, cache) for cache in ("memory", "disk"))
    assert_equal(batches_of(disk, PLAIN, on_device=True), batches_of(memory, PLAIN))


@pytest.mark.slow
@AUGMENTATIONS
def test_replicas_share_the_batch_that_one_device_has(photos: Images, augmentation: Augmentation) -> None:
    devices = configure_devices(Slot("cpu0"), 2, silent)
    made = training_batches(photos, STEPS, 3, devices, augmentation, on_device=True)
    prepare: Any = tf.function(made.prepare, autograph=False)
    shared = []
    for element in devices.strategy.experimental_distribute_dataset(made.start(0).take(2)):
        parts = [
            devices.strategy.experimental_local_results(part) for part in devices.strategy.run(prepare, (element,))
        ]
        assert [len(part) for part in parts] == [2, 2]
        shared.append([tf.concat(part, axis=0) for part in parts])
    assert_equal(shared, batches_of(photos, augmentation, 2))


@AUGMENTATIONS
def test_parts_of_an_element_give_the_parts_of_its_images(photos: Images, augmentation: Augmentation) -> None:
    made = training_batches(photos, STEPS, 3, CPU, augmentation, on_device=True)
    element = next(iter(made.start(0)))
    pieces = [made.prepare([part[start : start + 5] for part in element]) for start in (0, 5, 10, 15)]
    assert_equal([[tf.concat(part, axis=0) for part in zip(*pieces, strict=True)]], [made.prepare(element)])


@pytest.mark.parametrize("augmentation", [Augmentation(0.5, 2, erasing_probability=0.5), MIXED])
def test_a_compiled_step_makes_the_same_images(photos: Images, augmentation: Augmentation) -> None:
    made = training_batches(photos, STEPS, 3, CPU, augmentation, on_device=True)
    compiled: Any = tf.function(made.prepare, jit_compile=True, autograph=False)
    assert_equal([compiled(element) for element in made.start(0).take(2)], batches_of(photos, augmentation, 2), 1e-6)


@pytest.mark.parametrize(
    ("setting", "devices", "chosen"),
    [
        ("auto", GPU, True),
        ("auto", replace(GPU, memory_mb=0), False),
        ("auto", replace(CPU, memory_mb=2**20), False),
        ("on", CPU, True),
        ("off", GPU, False),
    ],
)
def test_images_are_kept_on_gpus_that_have_four_times_the_memory(
    photos: Images, setting: Any, devices: Devices, chosen: bool
) -> None:
    assert choose_on_device(setting, photos, devices, 1.0, silent) is chosen


@pytest.mark.parametrize(("training_mb", "chosen"), [(3.55, True), (3.65, False)])
def test_images_are_kept_on_a_gpu_only_if_the_training_fits_too(
    photos: Images, training_mb: float, chosen: bool
) -> None:
    small = replace(photos, pixels=photos.pixels[:, :8, :8])
    assert small.size_mb < 0.02
    assert choose_on_device("auto", small, GPU, training_mb, silent) is chosen


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"data_cache": "disk"}, {"data_on_device": "on", "cpu_replicas": 2, "batch_size": 16, "xla": "on"}]
)
def test_a_trial_trains_alike_wherever_the_images_are(
    make_training_plan: Any, completed: Any, settings: dict[str, Any]
) -> None:
    common = {"batch_size": 32, "batch_size_multiplier": 1, "learning_rate_scaling": "none", "accumulation_steps": 2}
    strengths = {"flip_probability": 0.5, "crop_padding": 0.125, "mixup_alpha": 0.3, "cutmix_alpha": 1.0}
    reference, moved = (completed(make_training_plan({**common, **strengths, **more})) for more in ({}, settings))
    assert moved.curve("loss") == pytest.approx(reference.curve("loss"), rel=1e-4)
    assert moved.curve("val_loss") == pytest.approx(reference.curve("val_loss"), rel=1e-4)
