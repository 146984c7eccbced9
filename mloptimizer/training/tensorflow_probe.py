"""Checks what TensorFlow can do on this machine; run as ``python -m mloptimizer.training.tensorflow_probe``.

It prints one line of JSON in its own process, so that the caller needs no TensorFlow and survives its crash. A check
that fails gives the text of its error.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from mloptimizer.training.environment import set_environment

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
set_environment()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from mloptimizer.training.trial_failures import describe_failure  # noqa: E402

_REFUSALS = (  # of TensorFlow, for reasons of the driver, the compiler or a missing library
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    tf.errors.OpError,
)


def probe_tensorflow() -> dict[str, Any]:
    """Return the versions, the CUDA version of the build, the GPUs and what works on the first device."""
    build = tf.sysconfig.get_build_info()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)  # a search may be using them
    precisions = ("float32", "mixed_float16", "mixed_bfloat16") if gpus else ("float32",)
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "cuda_build": build.get("cuda_version") if tf.test.is_built_with_cuda() else None,
        "cudnn_build": build.get("cudnn_version") if tf.test.is_built_with_cuda() else None,
        "gpus": [_describe(gpu) for gpu in gpus],
        "precision": {name: _try(partial(_trains, name)) for name in precisions},
        "xla": _try(_compiles),
        "nccl": _try(partial(_sums_over_nccl, len(gpus))) if len(gpus) > 1 else None,
    }


def _describe(gpu: Any) -> dict[str, Any]:
    details = tf.config.experimental.get_device_details(gpu)
    capability = list(details.get("compute_capability", ()))
    return {"name": details.get("device_name", gpu.name), "compute_capability": capability}


def _try(check: Callable[[], object]) -> bool | str:
    try:
        check()
    except _REFUSALS as error:
        return describe_failure(error).message
    return True


def _trains(precision: str) -> None:
    layer = keras.layers.Dense(8, dtype=precision)
    images = tf.ones((8, 8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.cast(layer(images), "float32") ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    if not all(bool(tf.reduce_all(tf.math.is_finite(gradient))) for gradient in gradients):
        raise ArithmeticError("the gradients are not finite")


def _compiles() -> None:
    double = tf.function(lambda values: tf.reduce_sum(values * 2.0), jit_compile=True)
    if float(double(tf.ones((16,)))) != 32.0:
        raise ArithmeticError("the compiled function gives wrong results")


def _sums_over_nccl(count: int) -> None:
    strategy = tf.distribute.MirroredStrategy(cross_device_ops=tf.distribute.NcclAllReduce())

    def add() -> Any:
        return tf.distribute.get_replica_context().all_reduce("sum", tf.constant(1.0))

    total = tf.function(lambda: strategy.run(add), autograph=False)()
    sums = [float(value) for value in strategy.experimental_local_results(total)]
    if sums != [float(count)] * count:
        raise ArithmeticError(f"the sum over {count} GPUs is {sums}")


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(probe_tensorflow()) + "\n")
