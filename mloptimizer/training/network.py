"""Builds the network of a search space and checks that it can be trained; keeps and reads its weights."""

import copy
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.files import UNFINISHED
from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.core.system_errors import file_error
from mloptimizer.core.words import in_a_line
from mloptimizer.spaces.process_state import Guarded, process_kept
from mloptimizer.spaces.space_files import load_space
from mloptimizer.spaces.training_values import TRAINING_VALUES
from mloptimizer.spaces.unused_values import ReadParams, find_misnamed
from mloptimizer.training.outputs import find_fault
from mloptimizer.training.trial_failures import SpaceError

# What a space's code may change, and the training relies on.
_KEPT: tuple[Guarded, ...] = (
    (keras.config.floatx, keras.config.set_floatx),
    (keras.config.epsilon, keras.config.set_epsilon),
    (keras.config.dtype_policy, keras.config.set_dtype_policy),
    (keras.config.image_data_format, keras.config.set_image_data_format),
    (keras.distribution.distribution, keras.distribution.set_distribution),
    (tf.config.functions_run_eagerly, tf.config.run_functions_eagerly),
    (tf.config.get_soft_device_placement, tf.config.set_soft_device_placement),
    (tf.config.experimental.tensor_float_32_execution_enabled, tf.config.experimental.enable_tensor_float_32_execution),
    (np.geterr, lambda errors: np.seterr(**errors)),
)


def build_network(name: str, source: str, params: Params, dataset: DatasetInfo) -> Any:
    """Return the space's `keras.Model`: from standardised float32 images to logits of shape (batch, classes).

    What the space changes in the process, Keras and TensorFlow is restored.

    Args:
        params: are copied, except `ReadParams`, which record what the space reads of a new configuration.

    Raises:
        SpaceError: the text is no search space, or its `build` raised or returned something else.
    """
    place = f"search space '{name}'"
    own = params if isinstance(params, ReadParams) else dict(params)
    try:
        with process_kept(_KEPT):
            network = load_space(name, source, place).build(own, copy.copy(dataset))
    except UsageError as error:
        raise SpaceError(str(error)) from error.__cause__ or error
    except BaseException as error:  # the space's code may raise anything, even SystemExit
        raise SpaceError(f"{place}: build raised {type(error).__name__}: {in_a_line(error)}") from error
    if fault := _find_model_fault(network, dataset):
        raise SpaceError(f"{place}: build returned {fault}.")
    if isinstance(own, ReadParams) and (ignored := _find_ignored(network, own, source)):
        raise SpaceError(f"{place}: {ignored}")
    return _as_plain_model(network)


def _as_plain_model(network: Any) -> Any:
    """Return the model as one of Keras's own classes, from tensor to tensor, so that it can be exported."""
    own = not type(network).__module__.startswith("keras.")
    if not own and isinstance(network, keras.Sequential):
        return network
    if own or not all(isinstance(side, keras.KerasTensor) for side in (network.input, network.output)):
        return keras.Model(network.inputs[0], network.outputs[0])
    return network


def check_outputs(network: Any, space: str) -> None:
    """Run a new network on a few images; raises SpaceError if its outputs are not trainable logits."""
    if fault := find_fault(network):
        raise SpaceError(f"search space '{space}': build returned a model {fault}.")


def _find_ignored(network: Any, params: ReadParams, source: str) -> str:
    """Describe what the space asks of its training and would not get; earlier versions accepted it."""
    if network.compiled:
        return (
            "build compiled its model, which the training would ignore. Possible: leave compile() out, and return the "
            f"training values from sample: {', '.join(TRAINING_VALUES[:5])}."
        )
    return find_misnamed(params, source)


def _find_model_fault(network: Any, dataset: DatasetInfo) -> str:
    """Describe why the model cannot be trained; empty if it can."""
    if not isinstance(network, keras.Model):
        return f"a {type(network).__name__}, not a keras.Model"
    if not network.built or not getattr(network, "inputs", None):
        return "a model without a keras.Input. Make it with keras.Model(inputs, outputs) or a built keras.Sequential"
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return f"a model with {len(network.inputs)} inputs and {len(network.outputs)} outputs, not one of each"
    inputs, outputs = tuple(network.inputs[0].shape), tuple(network.outputs[0].shape)
    if inputs != (None, *dataset.input_shape):
        return f"a model for inputs of shape {inputs}, not {(None, *dataset.input_shape)}"
    if outputs != (None, dataset.classes):
        return f"a model with outputs of shape {outputs}, not {(None, dataset.classes)}"
    return "" if network.trainable_weights else "a model without trainable weights"


def load_weights(network: Any, path: str) -> None:
    """Load the weights of the file into the network.

    Raises:
        RunError: the file is missing, damaged, or of another architecture.
    """
    try:
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # before it raises for another architecture
            network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = in_a_line(error, 200)
        raise RunError(f"{path}: the weights cannot be loaded ({reason}). Train the model again.") from error


def save_weights(network: Any, path: Path) -> None:
    """Write the whole file of weights, or leave what was there.

    Raises:
        UsageError: the folder cannot be written.
        RunError: the disk is full or failed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-", suffix=UNFINISHED) as folder:
            temporary = Path(folder) / path.name
            network.save_weights(temporary)
            temporary.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 raises either, with the system's error in many lines
        number = re.search(r"errno = (\d+)", str(error))
        reason = OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error
        if not isinstance(reason, OSError):
            raise
        raise file_error(path, reason) from reason
