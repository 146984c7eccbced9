"""Is the one place that uses what TensorFlow keeps to itself: the buffers that it puts on a strategy's devices."""

import contextlib
from functools import cache

import tensorflow as tf


@cache
def leave_device_buffers_untuned() -> None:
    """Turn autotune off in the buffers that TensorFlow puts on a strategy's devices, which no options of ours reach.

    Each holds one batch, so that there is nothing to tune; but a tuner sleeps up to a minute at a time, and can miss
    the call that wakes it when its iterator is taken down: it looks whether it is cancelled before that is set. The
    end of a trial would then wait until it wakes by itself.
    """
    # A TensorFlow that makes these buffers in another way trains as well; only its trials may end later.
    with contextlib.suppress(ImportError, AttributeError):
        from tensorflow.python.data.ops import multi_device_iterator_ops as iterators

        make = iterators._create_device_dataset
        options = tf.data.Options()
        options.autotune.enabled = False
        iterators._create_device_dataset = lambda *args, **kwargs: make(*args, **kwargs).with_options(options)
