"""Changes training images at random: flips, shifted crops, RandAugment, random erasing, MixUp and CutMix.

Guarantees: the random numbers of each image are drawn beforehand, so a batch gives the same images whole or in parts,
in the pipeline or on the device. A strength of 0 leaves the images unchanged.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from mloptimizer.core.nouns import TrialPlan
from mloptimizer.training.devices import Decide
from mloptimizer.training.input.randaugment import DRAWS_PER_IMAGE, transform

COLOUR_CHANNELS = 3
SMALLEST_SIDE = 24  # of images that "auto" flips and crops
FLIP_PROBABILITY = 0.5
CROP_PADDING = 0.125  # of the side: 4 pixels of CIFAR-10, as in section 4.2 of He et al. 2016
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = 0.3  # height / width lies between this and its inverse

Draws = Mapping[str, Any]  # vectors of one number per image, by name
_UNIFORM_DRAWS = {
    "flip_probability": ("flip",),
    "crop_padding": ("crop_y", "crop_x"),
    "randaugment_magnitude": tuple(f"randaugment_{number}" for number in range(DRAWS_PER_IMAGE)),
    "erasing_probability": ("erase", "erased_area", "erased_aspect", "erased_y", "erased_x"),
    "cutmix_alpha": ("cut_y", "cut_x"),
}


@dataclass(frozen=True)
class Augmentation:
    """How strongly training images are changed; 0: not at all."""

    flip_probability: float = 0.0
    crop_padding: int = 0  # largest shift in each direction, pixels
    randaugment_magnitude: float = 0.0  # 0 to 10
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    erasing_probability: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether an image is mixed with another one."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers drawn for an image, all in [0, 1)."""
        uniform = [name for strength, names in _UNIFORM_DRAWS.items() if getattr(self, strength) > 0 for name in names]
        # Never empty: an empty tensor cannot be split into parts of unknown size.
        return (*uniform, "cut", "share") if self.mixes else tuple(uniform) or ("unused",)


def choose_augmentation(plan: TrialPlan, decide: Decide) -> Augmentation:
    """Return the strengths: the plan's parameters of these names, else its settings; none if that is off."""
    settings, (height, width, channels) = plan.settings, plan.dataset.input_shape
    kind = f"{channels}-channel images of {height} × {width} pixels"
    if settings.augmentation == "off":
        decide("augmentation", "none", "set by the user")
        return Augmentation()
    given = {name: plan.params[name] for name in asdict(Augmentation()) if name in plan.params}
    strengths = {name: getattr(settings, name) for name in asdict(Augmentation())} | given
    like_photos = channels == COLOUR_CHANNELS and min(height, width) >= SMALLEST_SIDE
    for name, default in {"flip_probability": FLIP_PROBABILITY, "crop_padding": CROP_PADDING}.items():
        if strengths[name] == "auto":
            strengths[name] = default if like_photos else 0.0
    strengths["crop_padding"] = round(strengths["crop_padding"] * min(height, width))
    augmentation = Augmentation(**strengths)
    choice = ", ".join(f"{name} {value:g}" for name, value in asdict(augmentation).items() if value)
    origin = f"; proposed: {', '.join(given)}" if given else ""
    decide("augmentation", choice or "none", f"augmentation = {settings.augmentation}, {kind}{origin}")
    return augmentation


# --- drawing


def draw_augmentation(augmentation: Augmentation, count: int, seed: int, step: Any) -> Any:
    """Return the numbers for `count` images, float32 (count, columns), drawn from the seed and the step alone.

    An image's share in its mixture is Beta(alpha, alpha); of MixUp and CutMix, each batch gets one.
    """
    mixing = 2 if augmentation.mixes else 0
    uniform = _uniform((count, len(augmentation.columns) - mixing), seed, step, 0)
    if not mixing:
        return uniform
    cuts: Any = tf.constant(float(augmentation.cutmix_alpha > 0))
    if augmentation.mixup_alpha > 0 and augmentation.cutmix_alpha > 0:
        cuts = tf.cast(_uniform((), seed, step, 1) < 0.5, tf.float32)
    alpha = cuts * augmentation.cutmix_alpha + (1.0 - cuts) * augmentation.mixup_alpha
    share = _beta(alpha, count, seed, step)
    return tf.concat([uniform, tf.fill((count, 1), cuts), share[:, tf.newaxis]], axis=1)


def _seed(seed: int, step: Any, stream: int) -> Any:
    """Return the seed of an operation, unique by step and stream, and never that of an epoch's order."""
    return tf.stack([tf.constant(seed + (stream + 1) * 2**32, tf.int64), tf.cast(step, tf.int64)])


def _uniform(shape: tuple[int, ...], seed: int, step: Any, stream: int) -> Any:
    return tf.random.stateless_uniform(shape, _seed(seed, step, stream))


def _beta(alpha: Any, count: int, seed: int, step: Any) -> Any:
    """Return draws of Beta(alpha, alpha), even for an alpha so small that draws of Gamma(alpha) would be 0.

    Gamma(alpha) is Gamma(alpha + 1) · U^(1 / alpha), and Beta is the share of one of them in the sum of two.
    """
    large = tf.random.stateless_gamma((count, 2), _seed(seed, step, 2), alpha=alpha + 1.0)
    uniform = tf.maximum(_uniform((count, 2), seed, step, 3), 1e-7)
    logarithm = tf.math.log(large) + tf.math.log(uniform) / alpha
    return tf.sigmoid(logarithm[:, 0] - logarithm[:, 1])


# --- changing single images


def augment(augmentation: Augmentation, pixels: Any, draws: Any, standardise: Callable[[Any], Any], fill: Any) -> Any:
    """Return the standardised images, float32, changed by the draws.

    Args:
        pixels: (batch, height, width, channels), whole numbers from 0 to 255 of any type.
        draws: (batch, columns).
        standardise: makes pixels float32, with the mean of the data set as 0.
        fill: pixel (channels,) that RandAugment moves in from outside the image; crops move in 0.
    """
    by_name = dict(zip(augmentation.columns, tf.unstack(draws, axis=-1), strict=True))
    if augmentation.randaugment_magnitude > 0:
        columns = [by_name[name] for name in _UNIFORM_DRAWS["randaugment_magnitude"]]
        pixels = transform(pixels, columns, augmentation.randaugment_magnitude, fill)
    inside = None
    if augmentation.flip_probability > 0 or augmentation.crop_padding > 0:
        pixels, inside = _shift_and_flip(augmentation, pixels, by_name)
    images = standardise(pixels)
    if augmentation.crop_padding > 0:
        images *= inside
    if augmentation.erasing_probability > 0:
        images *= 1.0 - _erased(augmentation.erasing_probability, by_name, images.shape)
    return images


def _shift_and_flip(augmentation: Augmentation, pixels: Any, draws: Draws) -> tuple[Any, Any]:
    """Return the images shifted and mirrored by one gather, and a mask of the pixels that come from inside."""
    _, height, width, channels = pixels.shape
    rows, columns = _positions(height), _positions(width)
    if augmentation.flip_probability > 0:
        flipped = tf.cast(draws["flip"] < augmentation.flip_probability, tf.float32)[:, tf.newaxis]
        columns = columns + flipped * (width - 1.0 - 2.0 * columns)
    if augmentation.crop_padding > 0:
        padding = augmentation.crop_padding
        down, right = (tf.floor(draws[name] * (2 * padding + 1)) - padding for name in ("crop_y", "crop_x"))
        rows, columns = rows + down[:, tf.newaxis], columns + right[:, tf.newaxis]
    inside = _outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width), channels)
    rows, columns = tf.clip_by_value(rows, 0.0, height - 1.0), tf.clip_by_value(columns, 0.0, width - 1.0)
    # 64-bit integers: GPUs compute 32-bit ones on the host.
    images = tf.range(tf.shape(pixels, tf.int64)[0], dtype=tf.int64)[:, tf.newaxis]
    lines = (images * height + tf.cast(rows, tf.int64)) * width
    places = lines[:, :, tf.newaxis] + tf.cast(columns, tf.int64)[:, tf.newaxis, :]
    return tf.gather_nd(tf.reshape(pixels, (-1, channels)), places[..., tf.newaxis]), inside


def _positions(size: int) -> Any:
    return tf.range(size, dtype=tf.float32)[tf.newaxis]


def _outer(rows: Any, columns: Any, channels: int) -> Any:
    """Return a mask (batch, height, width, channels) of 1 where row and column are chosen, else 0."""
    # The channels are repeated before the product: broadcasting over a short axis is slow.
    wide = tf.tile(tf.cast(columns, tf.float32)[:, :, tf.newaxis], (1, 1, channels))
    wide = tf.reshape(wide, (-1, 1, columns.shape[1] * channels))
    mask = tf.cast(rows, tf.float32)[:, :, tf.newaxis] * wide
    return tf.reshape(mask, (-1, rows.shape[1], columns.shape[1], channels))


def _between(size: int, first: Any, end: Any) -> Any:
    return (_positions(size) >= first[:, tf.newaxis]) & (_positions(size) < end[:, tf.newaxis])


def _erased(probability: float, draws: Draws, shape: Any) -> Any:
    """Return a mask of 1 in the rectangles of random erasing (Zhong et al. 2020, algorithm 1).

    Unlike there, the aspect is drawn on a logarithmic scale, so that wide rectangles are as likely as tall ones, and a
    rectangle larger than the image is clipped instead of drawn again.
    """
    _, height, width, channels = shape
    least, most = ERASED_AREA
    area = (least + (most - least) * draws["erased_area"]) * height * width
    root = tf.exp(math.log(ERASED_ASPECT) * (0.5 - draws["erased_aspect"]))  # square root of height / width
    chosen = tf.cast(draws["erase"] < probability, tf.float32)
    tall = tf.clip_by_value(tf.round(tf.sqrt(area) * root), 1.0, height)
    wide = tf.clip_by_value(tf.round(tf.sqrt(area) / root), 1.0, width)
    top, left = tf.floor(draws["erased_y"] * (height - tall + 1)), tf.floor(draws["erased_x"] * (width - wide + 1))
    return _outer(_between(height, top, top + tall * chosen), _between(width, left, left + wide), channels)


# --- mixing two images

Batch = tuple[Any, Any]  # images and targets


def mix(augmentation: Augmentation, own: Batch, partners: Batch, draws: Any) -> Batch:
    """Return the images and targets mixed with their partners: MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    Args:
        draws: (batch, columns), of the own images.
    """
    by_name = dict(zip(augmentation.columns, tf.unstack(draws, axis=-1), strict=True))
    share = by_name["share"]
    weights = share[:, tf.newaxis, tf.newaxis, tf.newaxis]
    if augmentation.cutmix_alpha > 0:
        cut = by_name["cut"]
        kept, kept_share = _cut(by_name, own[0].shape)
        if augmentation.mixup_alpha > 0:
            flags = cut[:, tf.newaxis, tf.newaxis, tf.newaxis]
            kept, kept_share = flags * kept + (1.0 - flags) * weights, cut * kept_share + (1.0 - cut) * share
        weights, share = kept, kept_share
    share = share[:, tf.newaxis]
    return weights * own[0] + (1.0 - weights) * partners[0], share * own[1] + (1.0 - share) * partners[1]


def _cut(draws: Draws, shape: Any) -> tuple[Any, Any]:
    """Return a mask of 0 in the partner's box and 1 elsewhere, and the share of the latter."""
    _, height, width, channels = shape
    side = tf.sqrt(1.0 - draws["share"])
    edges = []
    for size, place in ((height, draws["cut_y"]), (width, draws["cut_x"])):
        middle, half = tf.floor(place * size), tf.floor(size * side / 2.0)
        edges += [tf.maximum(middle - half, 0.0), tf.minimum(middle + half, float(size))]
    top, bottom, left, right = edges
    box = _outer(_between(height, top, bottom), _between(width, left, right), channels)
    return 1.0 - box, 1.0 - (bottom - top) * (right - left) * (1.0 / (height * width))
