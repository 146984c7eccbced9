"""Chooses the number format of a trial and builds its model under it."""

import contextlib
from collections.abc import Iterator

import keras

from mloptimizer.training.devices import Decide, Devices

TENSOR_CORES_SINCE = (7, 0)  # compute capability of Volta


def choose_precision(setting: str, devices: Devices, decide: Decide) -> str:
    """Return the Keras dtype policy: ``float32``, ``mixed_float16`` or ``mixed_bfloat16``."""
    if setting != "auto":
        decide("precision", setting, "set by the person")
        return setting
    if devices.compute_capability is None:
        decide("precision", "float32", "a CPU computes half precision slower")
        return "float32"
    number = ".".join(map(str, devices.compute_capability))
    if devices.compute_capability >= TENSOR_CORES_SINCE:
        decide("precision", "mixed_float16", f"compute capability {number} has tensor cores")
        return "mixed_float16"
    decide("precision", "float32", f"compute capability {number} has no tensor cores")
    return "float32"


@contextlib.contextmanager
def precision_policy(policy: str) -> Iterator[None]:
    """Make it the global policy of Keras meanwhile."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
