"""The one place that uses private parts of TensorFlow: the buffers on a strategy's devices."""

import contextlib
from functools import cache

import tensorflow as tf


@cache
def leave_device_buffers_untuned() -> None:
    """Turn autotune off in the buffers on a strategy's devices, which public options do not reach.

    Each holds one batch, so there is nothing to tune; but a tuner sleeps for up to a minute, and can miss the call that
    wakes it at the end of its iterator. The end of the trial would then wait.
    """
    # Where TensorFlow makes these buffers in another way, trials train as well; they may end later.
    with contextlib.suppress(ImportError, AttributeError):
        from tensorflow.python.data.ops import multi_device_iterator_ops as iterators

        make = iterators._create_device_dataset
        options = tf.data.Options()
        options.autotune.enabled = False
        iterators._create_device_dataset = lambda *args, **kwargs: make(*args, **kwargs).with_options(options)
