"""Changes images by RandAugment (Cubuk et al. 2020): two of 14 operations each, at one strength for all.

Guarantees: an image's operations depend on its draws alone. All images go through the same tensor operations, neutral
for those that drew others, so it runs on any device and compiled. Pixels stay whole numbers.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

OPERATIONS = (
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast", "brightness"),
    *("sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
OPERATIONS_PER_IMAGE = 2
DRAWS_PER_IMAGE = 2 * OPERATIONS_PER_IMAGE  # operation and direction
LARGEST_MAGNITUDE = 10.0
# At the largest magnitude, as in table 6 of Cubuk et al. 2019 (AutoAugment); translations as for CIFAR-10
LARGEST_ROTATION = math.radians(30.0)
LARGEST_SHEAR = 0.3
LARGEST_TRANSLATION = 10 / 32  # of the side
LARGEST_ENHANCEMENT = 0.9
MOST_BITS_LOST = 4
LEVELS = 256
GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601


def transform(pixels: Any, draws: list[Any], magnitude: float, fill: Any) -> Any:
    """Return the images, changed by two operations each.

    Args:
        pixels: (batch, height, width, channels), whole numbers from 0 to 255 of any type.
        draws: `DRAWS_PER_IMAGE` vectors (batch,) of numbers in [0, 1): operation and direction, twice.
        magnitude: 0 to 10.
        fill: pixel (channels,) that moves in from outside the image.
    """
    strength = magnitude / LARGEST_MAGNITUDE
    for which, direction in zip(draws[::2], draws[1::2], strict=True):
        number = tf.floor(which * len(OPERATIONS))
        chosen = {name: tf.cast(number == place, tf.float32) for place, name in enumerate(OPERATIONS)}
        signed = tf.where(direction < 0.5, -strength, strength)
        pixels = _move(pixels, chosen, signed, fill)
        pixels = _map_levels(pixels, chosen, signed, strength)
        pixels = _blend(pixels, chosen, signed)
    return pixels


def _move(pixels: Any, chosen: dict[str, Any], signed: Any, fill: Any) -> Any:
    """Rotate, shear or translate: take each pixel from the nearest position under the inverse transformation."""
    _, height, width, channels = pixels.shape
    angle = (chosen["rotate"] * signed * LARGEST_ROTATION)[:, tf.newaxis]
    cosine, sine = tf.cos(angle), tf.sin(angle)
    shear_x, shear_y = ((chosen[name] * signed * LARGEST_SHEAR)[:, tf.newaxis] for name in ("shear_x", "shear_y"))
    right = (chosen["translate_x"] * signed * LARGEST_TRANSLATION * width)[:, tf.newaxis]
    down = (chosen["translate_y"] * signed * LARGEST_TRANSLATION * height)[:, tf.newaxis]
    y, x = (axis.reshape(1, -1).astype("float32") for axis in np.indices((height, width)))
    y_out, x_out = y - (height - 1) / 2, x - (width - 1) / 2
    x_in = tf.floor(cosine * x_out + (sine + shear_x) * y_out + right + width / 2)
    y_in = tf.floor((shear_y - sine) * x_out + cosine * y_out + down + height / 2)
    inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
    # 64-bit integers: GPUs compute 32-bit ones on the host.
    images = tf.range(tf.shape(pixels, tf.int64)[0], dtype=tf.int64)[:, tf.newaxis] * (height * width)
    place = tf.cast(inside, tf.int64) * (images + tf.cast(y_in * width + x_in, tf.int64) + 1)
    table = tf.concat([tf.cast(fill, pixels.dtype)[tf.newaxis], tf.reshape(pixels, (-1, channels))], axis=0)
    return tf.reshape(tf.gather_nd(table, place[..., tf.newaxis]), (-1, height, width, channels))


def _map_levels(pixels: Any, chosen: dict[str, Any], signed: Any, strength: float) -> Any:
    """Map each pixel by a table of its image and channel: contrast, brightness, solarize, posterize, equalize."""
    _, height, width, channels = pixels.shape
    values = tf.reshape(tf.cast(pixels, tf.float32), (-1, height, width * channels))
    tables = tf.range(tf.shape(pixels)[0] * channels)
    starts = tf.reshape(tf.cast(tables * LEVELS, tf.float32), (-1, 1, channels))
    places = tf.cast(values + tf.tile(starts, (1, 1, width)), tf.int32)
    size = tf.shape(pixels)[0] * channels * LEVELS
    counts = tf.math.unsorted_segment_sum(tf.ones_like(values), places, size)
    table = _tables(tf.reshape(counts, (-1, channels, LEVELS)), chosen, signed, strength)
    table = tf.cast(tf.reshape(table, (-1,)), pixels.dtype)
    return tf.reshape(tf.gather_nd(table, places[..., tf.newaxis]), (-1, height, width, channels))


def _tables(counts: Any, chosen: dict[str, Any], signed: Any, strength: float) -> Any:
    """Return the new value of every level, (batch, channels, 256), from the histogram."""

    def image(name: str) -> Any:
        return chosen[name][:, tf.newaxis, tf.newaxis]

    levels = np.arange(LEVELS, dtype="float32")
    solarized = np.where(levels < LEVELS * (1 - strength), levels, LEVELS - 1 - levels)
    step = 2 ** round(MOST_BITS_LOST * strength)
    special = ("auto_contrast", "equalize", "solarize", "posterize")
    return (
        image("auto_contrast") * _auto_contrast(counts, levels)
        + image("equalize") * _equalize(counts, levels)
        + image("solarize") * solarized
        + image("posterize") * (levels - levels % step)
        + (1.0 - sum(image(name) for name in special)) * _enhanced(counts, levels, chosen, signed)
    )


def _auto_contrast(counts: Any, levels: Any) -> Any:
    """Stretch the levels in use to the whole range."""
    occurs = tf.cast(counts > 0, tf.float32)
    highest = tf.reduce_max(occurs * levels, axis=-1, keepdims=True)
    lowest = LEVELS - 1 - tf.reduce_max(occurs * (LEVELS - 1 - levels), axis=-1, keepdims=True)
    several = tf.cast(highest > lowest, tf.float32)
    stretched = tf.floor((levels - lowest) * (LEVELS - 1) / tf.maximum(highest - lowest, 1.0))
    return several * tf.clip_by_value(stretched, 0.0, LEVELS - 1.0) + (1.0 - several) * levels


def _equalize(counts: Any, levels: Any) -> Any:
    """Make all levels about equally frequent, in integers, as Pillow's ImageOps.equalize."""
    occurs = tf.cast(counts > 0, tf.float32)
    highest = tf.reduce_max(occurs * levels, axis=-1, keepdims=True)
    last = tf.reduce_sum(counts * tf.cast(levels == highest, tf.float32), axis=-1, keepdims=True)
    step = tf.floor((tf.reduce_sum(counts, axis=-1, keepdims=True) - last) / (LEVELS - 1))
    below = tf.cumsum(counts, axis=-1, exclusive=True)
    equal = tf.floor((tf.floor(step / 2) + below) / tf.maximum(step, 1.0))
    possible = tf.cast(step > 0, tf.float32)
    return possible * tf.minimum(equal, LEVELS - 1.0) + (1.0 - possible) * levels


def _enhanced(counts: Any, levels: Any, chosen: dict[str, Any], signed: Any) -> Any:
    """Change brightness (the distance from black) or contrast (that from the mean grey) of the chosen images."""
    channels = counts.shape[1]
    grey = np.asarray(GREY if channels == len(GREY) else [1 / channels] * channels, "float32")
    means = tf.reduce_sum(counts * levels, axis=-1) / tf.reduce_sum(counts, axis=-1)
    mean = tf.round(tf.reduce_sum(means * grey, axis=-1))
    base = (chosen["contrast"] * mean)[:, tf.newaxis, tf.newaxis]
    change = (chosen["contrast"] + chosen["brightness"]) * signed * LARGEST_ENHANCEMENT
    factor = 1.0 + change[:, tf.newaxis, tf.newaxis]
    return tf.tile(tf.clip_by_value(tf.round(base + factor * (levels - base)), 0.0, LEVELS - 1.0), (1, channels, 1))


def _blend(pixels: Any, chosen: dict[str, Any], signed: Any) -> Any:
    """Move the pixels away from or towards their grey (color) or their neighbourhood's mean (sharpness)."""
    _, height, width, channels = pixels.shape
    values = tf.cast(pixels, tf.float32)
    change = signed * LARGEST_ENHANCEMENT
    centre = np.ones((3, 3, channels, 1), "float32")
    centre[1, 1] = 5.0  # as Pillow's ImageFilter.SMOOTH
    smooth = tf.nn.depthwise_conv2d(values, centre, (1, 1, 1, 1), "SAME") * (1.0 / 13.0)
    inner = np.zeros((height, width, channels), "float32")
    inner[1:-1, 1:-1] = 1.0  # the edge has no whole neighbourhood and stays
    sharper = (chosen["sharpness"] * change)[:, tf.newaxis] * tf.reshape((values - smooth) * inner, (-1, inner.size))
    blended = values + tf.reshape(sharper, tf.shape(values))
    if channels == len(GREY):
        factor = (chosen["color"] * change)[:, tf.newaxis, tf.newaxis]
        grey = np.tile(np.asarray(GREY, "float32")[:, np.newaxis], (1, channels))
        mixing = np.eye(channels, dtype="float32") + factor * (np.eye(channels, dtype="float32") - grey)
        blended = tf.reshape(tf.matmul(tf.reshape(blended, (-1, height * width, channels)), mixing), tf.shape(values))
    return tf.cast(tf.clip_by_value(tf.round(blended), 0.0, LEVELS - 1.0), pixels.dtype)
