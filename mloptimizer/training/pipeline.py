"""Feeds images from memory to the training: shuffled, standardised and batched by tf.data.

Guarantees: every epoch sees each training image at most once, in an order that depends on the seed and the epoch only;
validation and test see each image exactly once, in batches of one size whose last images may be padding of weight 0.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from mloptimizer.datasets.library import load_split
from mloptimizer.errors import MloptimizerError
from mloptimizer.records import DatasetInfo
from mloptimizer.training.devices import Decide, Devices
from mloptimizer.training.failures import DataError
from mloptimizer.training.schedule import Steps

EVALUATION_BATCHES = 4  # an evaluation batch holds so many training batches: it keeps no activations
PREFETCHED_BATCHES = 4
SMALLEST_STD = 1e-7

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Images:
    """A split in memory, shared by all batches made of it."""

    pixels: Any  # uint8 tensor (n, height, width, channels)
    labels: Any  # int32 tensor (n,)
    mean: np.ndarray  # per channel, on the scale of the pixels
    std: np.ndarray

    @property
    def count(self) -> int:
        return int(self.pixels.shape[0])


def load_images(info: DatasetInfo, split: Split, decide: Decide) -> Images:
    """Return the split in memory, on the CPU.

    Raises:
        DataError: it cannot be read.
    """
    try:
        pixels, labels = load_split(info, split)
        with tf.device("CPU:0"):
            tensors = tf.constant(pixels, tf.uint8), tf.constant(labels, tf.int32)
    except (MloptimizerError, OSError, ValueError) as error:
        raise DataError(str(error)) from error
    decide("cache", f"{split} in memory", f"{len(labels)} images as bytes are {pixels.nbytes / 1e6:.1f} MB")
    return Images(*tensors, *channel_scale(info))


def channel_scale(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel, as float32; a constant channel divides by a tiny number."""
    return np.asarray(info.mean, "float32"), np.maximum(np.asarray(info.std, "float32"), SMALLEST_STD)


def training_batches(images: Images, steps: Steps, seed: int, threads: int) -> Any:
    """Return endless batches of (float32 images, int32 labels), `steps.per_epoch` of them an epoch.

    The order of an epoch is a permutation drawn from (seed, epoch); what does not fill a batch is left out of it.
    """

    @tf.autograph.experimental.do_not_convert
    def shuffle(epoch: Any) -> Any:
        order = tf.random.experimental.stateless_shuffle(tf.range(images.count), seed=tf.stack([seed, epoch]))
        batches = tf.reshape(order[: steps.per_epoch * steps.global_batch], (steps.per_epoch, steps.global_batch))
        return tf.data.Dataset.from_tensor_slices(batches)

    @tf.autograph.experimental.do_not_convert
    def take(chosen: Any) -> tuple[Any, Any]:
        return _gather(images, chosen)

    epochs = tf.data.Dataset.range(2**31 - 1, output_type=tf.int32)
    batches = epochs.flat_map(shuffle).map(take, num_parallel_calls=threads)
    return batches.prefetch(PREFETCHED_BATCHES).with_options(_options(threads))


@dataclass(frozen=True)
class Evaluation:
    """Endless batches of (float32 images, int32 labels, float32 weights) that come back to the start every `steps`."""

    batches: Any
    steps: int


def evaluation_batches(images: Images, global_batch: int, devices: Devices) -> Evaluation:
    """Return batches of one size that show every image once in `steps` of them; padding weighs 0.

    The size is at most `EVALUATION_BATCHES` global batches and a multiple of the replicas, with as little padding as
    that allows. The batches are endless so that one iterator serves all epochs, and fetches while the model trains.
    """
    steps = math.ceil(images.count / (EVALUATION_BATCHES * global_batch))
    size = math.ceil(images.count / steps / devices.replicas) * devices.replicas
    positions = np.arange(steps * size)
    weights = (positions < images.count).astype("float32")
    chosen = np.minimum(positions, images.count - 1).astype("int32")
    slices = tf.data.Dataset.from_tensor_slices((chosen.reshape(steps, size), weights.reshape(steps, size))).repeat()

    @tf.autograph.experimental.do_not_convert
    def take(chosen: Any, weights: Any) -> tuple[Any, Any, Any]:
        return (*_gather(images, chosen), weights)

    batches = slices.map(take, num_parallel_calls=min(devices.threads, steps)).prefetch(1)
    return Evaluation(batches.with_options(_options(devices.threads)), steps)


def _gather(images: Images, chosen: Any) -> tuple[Any, Any]:
    return standardise(tf.gather(images.pixels, chosen), images.mean, images.std), tf.gather(images.labels, chosen)


def standardise(pixels: Any, mean: np.ndarray, std: np.ndarray) -> Any:
    """Return the images as float32 with mean 0 and standard deviation 1 per channel."""
    return (tf.cast(pixels, tf.float32) - mean) / std


def _options(threads: int) -> Any:
    options = tf.data.Options()
    options.deterministic = True
    # With tuning, taking an iterator down waited about a second in one trial of four; fixed numbers are as fast.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
