"""What augmentation does to images, pixel by pixel."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.training.input.augmentation import Augmentation, augment, choose_augmentation, draw_augmentation, mix
from mloptimizer.training.input.randaugment import OPERATIONS, transform

COUNT, HEIGHT, WIDTH = 400, 12, 10
FILL = np.float32([1, 2, 3])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Returns random images without a black pixel."""
    return np.random.default_rng(0).integers(1, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


def as_floats(pixels: Any) -> Any:
    return tf.cast(pixels, tf.float32)


def changed(augmentation: Augmentation, pixels: np.ndarray, seed: int = 5) -> np.ndarray:
    draws = draw_augmentation(augmentation, len(pixels), seed, 0)
    return np.asarray(augment(augmentation, tf.constant(pixels), draws, as_floats, FILL))


def decided(plan: Any) -> tuple[Augmentation, tuple[str, ...]]:
    decisions: list[tuple[str, ...]] = []
    augmentation = choose_augmentation(plan, lambda *decision: decisions.append(decision))
    assert len(decisions) == 1
    return augmentation, decisions[0]


# --- strengths


@pytest.mark.parametrize(
    ("shape", "flip_probability", "crop_padding"),
    [((32, 32, 3), 0.5, 4), ((64, 48, 3), 0.5, 6), ((32, 32, 1), 0, 0), ((8, 8, 1), 0, 0), ((96, 23, 3), 0, 0)],
)
def test_only_colour_photos_are_flipped_and_cropped_unasked(
    make_plan: Any, make_dataset: Any, shape: tuple[int, ...], flip_probability: float, crop_padding: int
) -> None:
    augmentation, decision = decided(make_plan(dataset=make_dataset(input_shape=shape)))
    assert augmentation == Augmentation(flip_probability, crop_padding)
    assert decision[:2] == (
        "augmentation",
        f"flip_probability 0.5, crop_padding {crop_padding}" if crop_padding else "none",
    )


def test_a_set_strength_counts_for_digits_too(make_training_plan: Any) -> None:
    settings = {"crop_padding": 0.25, "erasing_probability": 0.3}
    assert decided(make_training_plan(settings))[0] == Augmentation(crop_padding=2, erasing_probability=0.3)


def test_a_parameter_of_the_model_counts_before_the_setting(make_training_plan: Any) -> None:
    plan = make_training_plan({"mixup_alpha": 0.1, "cutmix_alpha": 0.5}, params={"mixup_alpha": 0.4, "width": 16})
    augmentation, decision = decided(plan)
    assert augmentation == Augmentation(mixup_alpha=0.4, cutmix_alpha=0.5)
    assert "mixup_alpha" in decision[2]


def test_off_means_none_whatever_the_model_proposes(make_training_plan: Any) -> None:
    assert decided(make_training_plan({"augmentation": "off"}, params={"mixup_alpha": 0.4}))[0] == Augmentation()


def test_strengths_of_zero_leave_the_images_untouched(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(changed(Augmentation(), pixels), pixels)


def test_steps_and_images_are_drawn_apart() -> None:
    augmentation = Augmentation(0.5, 4, 9.0, 0.2, 1.0, 0.5)
    draws = np.concatenate([draw_augmentation(augmentation, 50, 1, step) for step in range(4)])
    numbers = np.delete(draws, augmentation.columns.index("cut"), axis=1)
    assert len(np.unique(numbers[:, 0])) == 200
    assert abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 0.35
    assert numbers.min() >= 0
    assert numbers.max() <= 1


# --- flips and crops


def test_a_flip_mirrors_left_to_right(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(changed(Augmentation(flip_probability=1.0), pixels), pixels[:, :, ::-1])


def test_half_of_the_images_are_flipped(pixels: np.ndarray) -> None:
    images = changed(Augmentation(flip_probability=0.5), pixels)
    flipped = (images == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped ^ (images == pixels).all(axis=(1, 2, 3))).all()
    assert flipped.mean() == pytest.approx(0.5, abs=0.1)


def shifts_of(images: np.ndarray, pixels: np.ndarray, padding: int) -> list[tuple[int, int]]:
    """Return by how much each image was shifted, down and right, with zeros from outside; fails if by nothing."""
    padded = np.pad(pixels, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    starts = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    windows = np.stack([padded[:, y : y + HEIGHT, x : x + WIDTH] for y, x in starts])
    matches = (windows == images).all(axis=(2, 3, 4))
    assert (matches.sum(axis=0) == 1).all()
    return [starts[number] for number in matches.argmax(axis=0)]


def test_a_crop_shifts_the_image_over_zeros_by_every_distance(pixels: np.ndarray) -> None:
    shifts = shifts_of(changed(Augmentation(crop_padding=2), pixels), pixels, 2)
    assert len(set(shifts)) == 25
    assert np.bincount([y for y, _ in shifts]) == pytest.approx(COUNT / 5, abs=30)


def test_a_flipped_crop_is_the_mirror_image_of_a_crop(pixels: np.ndarray) -> None:
    shifts_of(changed(Augmentation(1.0, 3), pixels)[:, :, ::-1], pixels, 3)


# --- random erasing


def test_erasing_clears_a_rectangle_of_2_to_33_percent(pixels: np.ndarray) -> None:
    large = np.tile(pixels[:, :1, :1], (1, 64, 64, 1))
    images = changed(Augmentation(erasing_probability=1.0), large)
    gone = (images == 0).all(axis=3)
    np.testing.assert_array_equal(images[~gone], large[~gone])
    tall, wide = gone.any(axis=2).sum(axis=1), gone.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(gone.sum(axis=(1, 2)), tall * wide)
    areas, aspects = tall * wide / 64**2, tall / wide
    assert (0.017 < areas.min() < 0.04) and (0.29 < areas.max() < 0.35)
    assert (0.25 < aspects.min() < 0.4) and (2.5 < aspects.max() < 4)


def test_erasing_leaves_images_that_are_not_drawn(pixels: np.ndarray) -> None:
    images = changed(Augmentation(erasing_probability=0.25), pixels)
    touched = (images != pixels).any(axis=(1, 2, 3))
    assert touched.mean() == pytest.approx(0.25, abs=0.08)


# --- MixUp and CutMix


def mixed(augmentation: Augmentation, count: int = 200, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return what becomes of images of ones in class 0 whose partners are images of zeros in class 1."""
    shape = (count, 16, 16, 2)
    own, partners = (tf.ones(shape), tf.one_hot([0] * count, 2)), (tf.zeros(shape), tf.one_hot([1] * count, 2))
    images, targets = mix(augmentation, own, partners, draw_augmentation(augmentation, count, 1, step))
    return np.asarray(images), np.asarray(targets)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_blends_images_and_targets_by_shares_of_a_beta_distribution(alpha: float) -> None:
    images, targets = mixed(Augmentation(mixup_alpha=alpha), 2000)
    assert (images == targets[:, :1, None, None]).all()
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert targets[:, 0].mean() == pytest.approx(0.5, abs=0.03)
    assert targets[:, 0].var() == pytest.approx(1 / (8 * alpha + 4), rel=0.1)


def test_cutmix_puts_a_box_of_the_partner_into_the_image_and_its_area_into_the_targets() -> None:
    images, targets = mixed(Augmentation(cutmix_alpha=1.0))
    boxes = images[..., 0] == 0
    assert (np.isin(images, (0, 1)) & (images == images[..., :1])).all()
    tall, wide = boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(boxes.sum(axis=(1, 2)), tall * wide)
    np.testing.assert_allclose(targets, np.stack([1 - tall * wide / 256, tall * wide / 256], axis=1), atol=1e-6)
    assert len(set(tall)) > 10


def test_a_cut_box_lies_around_its_centre_and_covers_the_rest_of_the_share_unless_the_edge_cuts_it() -> None:
    augmentation = Augmentation(cutmix_alpha=1.0)
    draws = dict(zip(augmentation.columns, np.asarray(draw_augmentation(augmentation, 200, 1, 0)).T, strict=True))
    half = np.floor(8 * np.sqrt(1 - draws["share"]))  # of 16 pixels
    for name, axis in (("cut_y", 2), ("cut_x", 1)):
        centre, places = np.floor(16 * draws[name])[:, None], np.arange(16)
        inside = (places >= centre - half[:, None]) & (places < centre + half[:, None])
        boxes = mixed(augmentation)[0][..., 0] == 0
        np.testing.assert_array_equal(boxes.any(axis=axis), inside & (half > 0)[:, None])


def test_with_both_each_batch_gets_one_of_the_two_and_the_targets_follow() -> None:
    augmentation = Augmentation(mixup_alpha=1.0, cutmix_alpha=1.0)
    cuts = 0
    for step in range(40):
        images, targets = mixed(augmentation, 20, step)
        np.testing.assert_allclose(targets[:, 0], images.mean(axis=(1, 2, 3)), atol=1e-5)
        whole = np.isin(images, (0, 1)).all(axis=(1, 2, 3))
        assert whole.all() or not whole.any()
        cuts += whole.all()
    assert 10 < cuts < 30


def test_a_tiny_alpha_mixes_next_to_nothing() -> None:
    images, targets = mixed(Augmentation(mixup_alpha=0.001))
    assert np.isfinite(images).all()
    assert (np.abs(targets - np.round(targets)) < 1e-3).mean() > 0.95


# --- RandAugment


def after(operation: str, images: Any, magnitude: float = 10.0, direction: float = 0.9) -> np.ndarray:
    """Return the images after the operation alone, in the negative direction below 0.5."""
    count = len(images)
    which = tf.fill([count], (OPERATIONS.index(operation) + 0.5) / len(OPERATIONS))
    draws = [which, tf.fill([count], direction), tf.zeros(count), tf.zeros(count)]
    return np.asarray(transform(tf.constant(images), draws, magnitude, FILL[: images.shape[-1]]))


def test_the_operation_identity_changes_nothing(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(after("identity", pixels), pixels)


@pytest.mark.parametrize(("magnitude", "threshold"), [(10.0, 0), (5.0, 128)])
def test_solarize_inverts_from_a_threshold(pixels: np.ndarray, magnitude: float, threshold: int) -> None:
    np.testing.assert_array_equal(
        after("solarize", pixels, magnitude), np.where(pixels < threshold, pixels, 255 - pixels)
    )


def test_posterize_keeps_four_bits_at_most_strength(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(after("posterize", pixels), pixels & 0xF0)


@pytest.mark.parametrize(("direction", "factor"), [(0.9, 1.9), (0.1, 0.1)])
def test_brightness_scales_the_distance_from_black(pixels: np.ndarray, direction: float, factor: float) -> None:
    expected = np.clip(pixels * factor, 0, 255)
    np.testing.assert_allclose(after("brightness", pixels, direction=direction), expected, atol=0.51)


@pytest.mark.parametrize(("direction", "factor"), [(0.9, 1.9), (0.1, 0.1)])
def test_contrast_scales_the_distance_from_the_mean_grey(pixels: np.ndarray, direction: float, factor: float) -> None:
    grey = np.round((pixels @ [0.299, 0.587, 0.114]).mean(axis=(1, 2)))[:, None, None, None]
    expected = np.clip(grey + factor * (pixels - grey), 0, 255)
    np.testing.assert_allclose(after("contrast", pixels, direction=direction), expected, atol=1.01)


@pytest.mark.parametrize(("direction", "factor"), [(0.9, 1.9), (0.1, 0.1)])
def test_color_scales_the_distance_from_the_pixels_grey(pixels: np.ndarray, direction: float, factor: float) -> None:
    grey = (pixels @ [0.299, 0.587, 0.114])[..., None]
    expected = np.clip(grey + factor * (pixels - grey), 0, 255)
    np.testing.assert_allclose(after("color", pixels, direction=direction), expected, atol=0.51)


def test_auto_contrast_stretches_each_channel_to_the_whole_range() -> None:
    images = np.broadcast_to(np.uint8([100, 110, 120])[:, None], (2, 3, 3, 3)) + np.uint8([0, 50, 100])
    assert sorted(set(after("auto_contrast", images)[..., 1].ravel())) == [0, 127, 255]


def test_auto_contrast_and_equalize_keep_an_image_of_one_level() -> None:
    images = np.full((2, 4, 4, 3), 77, np.uint8)
    for operation in ("auto_contrast", "equalize"):
        np.testing.assert_array_equal(after(operation, images), images)


def test_equalize_spreads_the_levels_by_how_often_they_occur() -> None:
    levels = np.repeat(np.uint8([10, 20, 30, 200]), 256).reshape(1, 32, 32, 1)  # a quarter of the pixels each
    assert list(np.unique(after("equalize", levels))) == [0, 85, 171, 255]  # 1 + 256 k over a step of 3, cut at 255


def test_sharpness_moves_a_pixel_away_from_its_neighbours_mean_but_keeps_the_edge() -> None:
    images = np.full((1, 5, 5, 1), 100, np.uint8)
    images[0, 2, 2] = 113  # smoothed: (8 · 100 + 5 · 113) / 13 = 105
    sharp, soft = (after("sharpness", images, direction=direction)[0, ..., 0] for direction in (0.9, 0.1))
    assert (sharp[2, 2], soft[2, 2]) == (round(113 + 0.9 * 8), round(113 - 0.9 * 8))
    assert (sharp[2, 1], soft[2, 1]) == (round(100 - 0.9), round(100 + 0.9))
    assert (sharp[0] == 100).all()


@pytest.mark.parametrize(("operation", "shift"), [("translate_x", (0, 10)), ("translate_y", (10, 0))])
@pytest.mark.parametrize("direction", [0.9, 0.1])
def test_translations_move_by_10_of_32_pixels(operation: str, shift: tuple[int, int], direction: float) -> None:
    images = np.random.default_rng(0).integers(10, 256, (3, 32, 32, 3), np.uint8)
    sign = 1 if direction > 0.5 else -1
    canvas = np.tile(FILL.astype(np.uint8), (3, 52, 52, 1))
    canvas[:, 10:42, 10:42] = images
    y, x = 10 + sign * shift[0], 10 + sign * shift[1]
    np.testing.assert_array_equal(after(operation, images, direction=direction), canvas[:, y : y + 32, x : x + 32])


@pytest.mark.parametrize(("operation", "axis"), [("shear_x", 0), ("shear_y", 1)])
def test_shears_shift_lines_in_proportion_to_their_distance_from_the_centre(operation: str, axis: int) -> None:
    images = np.zeros((1, 21, 21, 1), np.uint8)
    images[0, ...] = np.arange(1, 22).reshape((1, 21, 1) if axis == 0 else (21, 1, 1))
    sheared = np.moveaxis(after(operation, images)[0, ..., 0], axis, 0)
    np.testing.assert_array_equal(sheared[10], np.arange(1, 22))
    np.testing.assert_array_equal(sheared[20, 5:15], np.arange(9, 19))  # 0.3 · 10 lines
    np.testing.assert_array_equal(sheared[0, 5:15], np.arange(3, 13))


@pytest.mark.parametrize("magnitude", [5.0, 10.0])
def test_a_rotation_turns_by_up_to_30_degrees(magnitude: float) -> None:
    y, x = np.mgrid[-20:21, -20:21]
    images = np.uint8(np.abs(np.degrees(np.arctan2(y, x))))[None, ..., None]  # the angle from the middle line
    turned = after("rotate", images, magnitude)[0, 20, 30:, 0]  # what lies right of the centre came from that angle
    assert turned == pytest.approx(3.0 * magnitude, abs=4)


def test_each_operation_is_drawn_equally_often_and_magnitude_zero_is_off(pixels: np.ndarray) -> None:
    augmentation = Augmentation(randaugment_magnitude=9.0)
    draws = np.asarray(draw_augmentation(augmentation, 14000, 1, 0))
    assert np.bincount(np.floor(draws[:, 0] * len(OPERATIONS)).astype(int)) == pytest.approx(1000, abs=150)
    assert Augmentation(randaugment_magnitude=0.0) == Augmentation()
    assert math.isclose((changed(augmentation, pixels) != pixels).any(axis=(1, 2, 3)).mean(), 1, abs_tol=0.1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_randaugment_gives_whole_pixels_in_range_for_any_number_of_channels(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, channels), np.uint8)
    draws = tf.unstack(tf.random.stateless_uniform((60, 4), (1, 2)), axis=1)
    whole = transform(tf.constant(images), draws, 9.0, np.zeros(channels))
    as_float = transform(tf.constant(images, tf.float32), draws, 9.0, np.zeros(channels))
    assert whole.dtype == tf.uint8
    np.testing.assert_array_equal(whole, as_float)
