"""Chooses the number format of a trial, and applies it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from mloptimizer.core.errors import RunError
from mloptimizer.training.devices import Decide, Devices

TENSOR_CORES_SINCE = (7, 0)  # compute capability of Volta
TENSOR_FLOAT_SINCE = (8, 0)  # of Ampere, also for bfloat16


@dataclass(frozen=True)
class Precision:
    """A number format: the Keras dtype policy, and whether float32 products may use TensorFloat-32."""

    name: str
    policy: str  # float32, mixed_float16 or mixed_bfloat16
    tensor_float: bool = False

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would underflow without a scaled loss: float16 has five bits of exponent."""
        return self.policy == "mixed_float16"


FLOAT32 = Precision("float32", "float32")


def choose_precision(setting: str, devices: Devices, decide: Decide) -> Precision:
    """Return the number format for the devices. Raises RunError: the GPU cannot compute in the format set."""
    capability = devices.compute_capability
    number = ".".join(map(str, capability or ()))
    if setting != "auto":
        if setting == "tf32" and (capability is None or capability < TENSOR_FLOAT_SINCE):
            device = f"a GPU of compute capability {number}" if capability else "a CPU"
            raise RunError(
                f"precision = tf32: {device} has no TensorFloat-32; it needs compute capability 8.0. Possible: float32."
            )
        decide("precision", setting, "set by the user")
        return Precision(setting, "float32" if setting == "tf32" else setting, setting == "tf32")
    if capability and capability >= TENSOR_CORES_SINCE:
        decide("precision", "mixed_float16", f"compute capability {number} has tensor cores")
        return Precision("mixed_float16", "mixed_float16")
    slower = f"compute capability {number} has no tensor cores" if capability else "a CPU is slower in half precision"
    decide("precision", "float32", slower)
    return FLOAT32


@contextlib.contextmanager
def precision_policy(precision: Precision) -> Iterator[None]:
    """Compute in this format within the block: Keras's policy, and TensorFlow's TensorFloat-32, on by default."""
    policy, tensor_float = keras.config.dtype_policy(), tf.config.experimental.tensor_float_32_execution_enabled()
    keras.config.set_dtype_policy(precision.policy)
    tf.config.experimental.enable_tensor_float_32_execution(precision.tensor_float)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        tf.config.experimental.enable_tensor_float_32_execution(tensor_float)
