"""Feeds images to the training: shuffled, augmented, standardised and batched by tf.data, or on the device itself.

Guarantees: every epoch sees each training image at most once, in an order that depends on the seed and the epoch only;
random changes depend on the seed and the step only. The place of the images (memory, disk or device) changes nothing.
Validation and test see each image exactly once, in batches of equal size, with padding of weight 0 at the end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.data.library import Split, map_split
from mloptimizer.hardware.read.machine import MB, available_memory_mb
from mloptimizer.training.devices import Decide, Devices
from mloptimizer.training.input.augmentation import Augmentation, augment, draw_augmentation, mix
from mloptimizer.training.memory.estimate import FITTING_SHARE
from mloptimizer.training.step.schedule import Steps
from mloptimizer.training.trial_failures import DataError

EVALUATION_BATCHES = 4  # training batches in an evaluation batch, which keeps no activations
PREFETCHED_BATCHES = 4
LARGEST_SHARE = 0.25  # of the free memory, or of a GPU's, for the images
SMALLEST_STD = 1e-7
LAST_EPOCH = 2**31 - 1


@dataclass(frozen=True)
class Images:
    """A split of a data set."""

    pixels: Any  # uint8 (n, height, width, channels): a tensor, or, with `rows`, a memory-mapped file
    labels: Any  # int32 tensor (n,)
    mean: np.ndarray  # per channel, on the scale of the pixels
    std: np.ndarray
    classes: int
    rows: np.ndarray | None = None  # the split's images in the file

    @property
    def count(self) -> int:
        return int(self.labels.shape[0])

    @property
    def size_mb(self) -> float:
        """Size of the images as bytes."""
        return self.count * math.prod(self.pixels.shape[1:]) / MB


def load_images(
    info: DatasetInfo, split: Split, decide: Decide, cache: Literal["auto", "memory", "disk"] = "auto"
) -> Images:
    """Return the split in main memory if it takes at most a quarter of the free memory, else memory-mapped.

    Raises:
        DataError: it cannot be read.
    """
    try:
        pixels, labels, rows = map_split(info, split)
        scale = channel_scale(info)
        with tf.device("CPU:0"):
            mapped = Images(pixels, tf.constant(labels, tf.int32), *scale, info.classes, rows)
            if not _fits_memory(mapped, split, decide, cache):
                return mapped
            # Labels after pixels: TensorFlow keeps its copy until it converts another array.
            return Images(tf.constant(pixels[rows]), tf.constant(labels, tf.int32), *scale, info.classes)
    except (MloptimizerError, OSError, ValueError) as error:
        raise DataError(str(error)) from error


def _fits_memory(images: Images, split: Split, decide: Decide, cache: str) -> bool:
    available = available_memory_mb()
    fits = cache == "memory" or (cache == "auto" and images.size_mb <= LARGEST_SHARE * available)
    reason = f"{images.count} images as bytes take {images.size_mb:.1f} MB of {available} MB free"
    decide("cache", f"{split} {'in memory' if fits else 'on disk'}", f"data_cache = {cache}; {reason}")
    return fits


def channel_scale(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel, as float32; that of a constant channel is tiny, not 0."""
    return np.asarray(info.mean, "float32"), np.maximum(np.asarray(info.std, "float32"), SMALLEST_STD)


def standardise(pixels: Any, mean: np.ndarray, std: np.ndarray) -> Any:
    """Return the images (batch, height, width, channels) as float32 with mean 0 and standard deviation 1 per channel.

    It works on whole lines: broadcasting over the few channels takes five times as long.
    """
    _, height, width, channels = pixels.shape
    factor, offset = (np.tile(values.astype("float32"), width) for values in (1.0 / std, -mean / std))
    lines = tf.reshape(tf.cast(pixels, tf.float32), (-1, width * channels))
    return tf.reshape(lines * factor + offset, (-1, height, width, channels))


# --- training


@dataclass(frozen=True)
class TrainingBatches:
    """Endless elements of one global batch each, from any step (counted from 0) on.

    `prepare` turns an element, or a part of it along axis 0, into float32 images (batch, height, width, channels) and
    targets (batch, classes); None if the elements are these already. `batch` makes them for any single step.
    """

    start: Callable[[int], Any]
    prepare: Callable[[Any], tuple[Any, Any]] | None
    batch: Callable[[int], tuple[Any, Any]]


def training_batches(
    images: Images,
    steps: Steps,
    seed: int,
    devices: Devices,
    augmentation: Augmentation,
    *,
    prefetch: int = PREFETCHED_BATCHES,
    on_device: bool = False,
) -> TrainingBatches:
    """Return the batches of the training, `steps.per_epoch` of them an epoch.

    The order of an epoch is a permutation drawn from (seed, epoch); an incomplete last batch is dropped.

    Args:
        prefetch: batches prepared ahead of the training.
        on_device: the images are on the device, and an element holds only their indices and the draws.
    """

    @tf.autograph.experimental.do_not_convert
    def take(chosen: Any, step: Any) -> Any:
        draws = draw_augmentation(augmentation, steps.global_batch, seed, step)
        labels = tf.gather(images.labels, chosen)
        if on_device:
            return _with_partners(augmentation, chosen, labels, draws)
        own = _augmented(images, augmentation, _gather(images, chosen), labels, draws)
        # The next image of the batch is the partner: the order of the batch is already random.
        return mix(augmentation, own, (_next(own[0]), _next(own[1])), draws) if augmentation.mixes else own

    def make(first_step: int, ahead: int) -> Any:
        chosen = _chosen_images(images.count, steps, seed, first_step)
        elements = chosen.map(take, num_parallel_calls=min(devices.threads, ahead))
        return elements.prefetch(ahead).with_options(_options(devices.threads))

    prepare = _prepare_on_device(images, augmentation, devices) if on_device else None

    def batch(step: int) -> tuple[Any, Any]:
        element = next(iter(make(step, 1)))
        return prepare(element) if prepare else element

    return TrainingBatches(lambda step: make(step, prefetch), prepare, batch)


def _chosen_images(count: int, steps: Steps, seed: int, first_step: int) -> Any:
    """Return the dataset of (positions of a batch's images, number of the step)."""

    @tf.autograph.experimental.do_not_convert
    def shuffle(epoch: Any) -> Any:
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=tf.stack([seed, epoch]))
        batches = tf.reshape(order[: steps.per_epoch * steps.global_batch], (steps.per_epoch, steps.global_batch))
        numbers = tf.cast(epoch, tf.int64) * steps.per_epoch + tf.range(steps.per_epoch, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((batches, numbers))

    epoch, rest = divmod(first_step, steps.per_epoch)
    return tf.data.Dataset.range(epoch, LAST_EPOCH, output_type=tf.int32).flat_map(shuffle).skip(rest)


def _augmented(images: Images, augmentation: Augmentation, pixels: Any, labels: Any, draws: Any) -> tuple[Any, Any]:
    scale = partial(standardise, mean=images.mean, std=images.std)
    changed = augment(augmentation, pixels, draws, scale, np.round(images.mean))
    return changed, tf.one_hot(labels, images.classes)


def _next(batch: Any) -> Any:
    return tf.roll(batch, -1, axis=0)


# --- images on the device


def choose_on_device(
    setting: Literal["auto", "on", "off"], images: Images, devices: Devices, training_mb: float, decide: Decide
) -> bool:
    """Return whether the images are kept on the device: if asked for, and on GPUs with four times their size.

    Args:
        training_mb: estimated memory of the training on one device, for which room must remain.
    """
    if setting != "auto":
        decide("images on the device", setting, "set by the user")
        return setting == "on"
    room_mb = min(LARGEST_SHARE * devices.memory_mb, FITTING_SHARE * devices.memory_mb - training_mb)
    fits = devices.kind == "GPU" and images.size_mb <= room_mb
    sizes = f"they take {images.size_mb:.1f} MB, the training an estimated {training_mb:,.0f} MB"
    reason = f"{sizes}, and each GPU has {devices.memory_mb} MB" if devices.kind == "GPU" else "there is no GPU"
    decide("images on the device", "on" if fits else "off", reason)
    return fits


def device_images(images: Images, devices: Devices) -> Any:
    """Return all images as a uint8 variable on every device, for use within a training step."""
    pixels = images.pixels if images.rows is None else images.pixels[images.rows]
    only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    with devices.scope():
        return tf.Variable(pixels, trainable=False, dtype=tf.uint8, aggregation=only_first)


def _with_partners(augmentation: Augmentation, *parts: Any) -> tuple[Any, ...]:
    """Return the parts as (batch, 1 or 2, …): each image with its partner, if it is mixed with one."""
    if not augmentation.mixes:
        return tuple(part[:, tf.newaxis] for part in parts)
    return tuple(tf.stack([part, _next(part)], axis=1) for part in parts)


def _prepare_on_device(images: Images, augmentation: Augmentation, devices: Devices) -> Callable[[Any], Any]:
    pixels = device_images(images, devices)

    def prepare(element: Any) -> tuple[Any, Any]:
        chosen, labels, draws = (tf.unstack(part, axis=1) for part in element)
        made = [
            # As float32: GPUs cannot gather single bytes
            _augmented(images, augmentation, tf.cast(tf.gather(pixels, chosen[i]), tf.float32), labels[i], draws[i])
            for i in range(len(chosen))
        ]
        return mix(augmentation, made[0], made[1], draws[0]) if augmentation.mixes else made[0]

    return prepare


# --- evaluation


@dataclass(frozen=True)
class Evaluation:
    """Endless batches of (float32 images, int32 labels, float32 weights) that repeat every `steps`."""

    batches: Any
    steps: int


def evaluation_batches(images: Images, global_batch: int, devices: Devices) -> Evaluation:
    """Return batches of equal size, of which `steps` hold every image once; padding weighs 0.

    The size is at most `EVALUATION_BATCHES` global batches and a multiple of the replicas, with as little padding as
    possible. The batches are endless, so one iterator serves all epochs and fetches while the model trains.
    """
    steps = math.ceil(images.count / (EVALUATION_BATCHES * global_batch))
    size = math.ceil(images.count / steps / devices.replicas) * devices.replicas
    positions = np.arange(steps * size)
    weights = (positions < images.count).astype("float32")
    chosen = np.minimum(positions, images.count - 1).astype("int32")
    slices = tf.data.Dataset.from_tensor_slices((chosen.reshape(steps, size), weights.reshape(steps, size))).repeat()

    @tf.autograph.experimental.do_not_convert
    def take(chosen: Any, weights: Any) -> tuple[Any, Any, Any]:
        return standardise(_gather(images, chosen), images.mean, images.std), tf.gather(images.labels, chosen), weights

    batches = slices.map(take, num_parallel_calls=min(devices.threads, steps)).prefetch(1)
    return Evaluation(batches.with_options(_options(devices.threads)), steps)


def _gather(images: Images, chosen: Any) -> Any:
    """Return the pixels of the images at these positions."""
    if images.rows is None:
        return tf.gather(images.pixels, chosen)
    pixels, rows = images.pixels, images.rows
    read = tf.numpy_function(lambda positions: pixels[rows[positions]], [chosen], tf.uint8, stateful=False)
    return tf.ensure_shape(read, (*chosen.shape, *pixels.shape[1:]))


def _options(threads: int) -> Any:
    options = tf.data.Options()
    options.deterministic = True
    # A tuner can delay the end of an iterator by up to a minute; fixed numbers are as fast.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # batches are made in parallel instead
    # They copy all images to rewrite the graph, and speed nothing up here.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
