"""Exports a trained model as one Keras file that takes raw pixels and returns probabilities.

Guarantees: the file opens with Keras alone, in safe mode and without code of mloptimizer or of the space. The export
opens it so and compares it with the trained network.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.core.system_errors import file_error
from mloptimizer.data.library import load_split
from mloptimizer.training.export.openable import REMEDY, as_fresh_keras, find_own_code
from mloptimizer.training.input.pipeline import channel_scale, standardise
from mloptimizer.training.keras_internals import all_layers
from mloptimizer.training.network import build_network, load_weights
from mloptimizer.training.step.precision import FLOAT32, precision_policy

COMPARED_IMAGES = 64
# Of two probabilities that should be equal, by the number format of the least exact layer.
LARGEST_DIFFERENCES = {"bfloat16": 0.1, "float16": 0.02, "float32": 1e-4}


def export_model(
    space: tuple[str, str], params: Params, dataset: DatasetInfo, weights: Path, target: Path
) -> dict[str, Any]:
    """Write the model to `target`, a path that ends in ``.keras``, and return a description of it.

    The model is rebuilt in float32, except for layers to which the space itself gives another type. It takes pixels
    from 0 to 255 of shape (batch, height, width, channels) and returns probabilities of shape (batch, classes).

    Args:
        space: name and text of the search space.
        weights: file of the trained weights.

    Returns:
        parameters (number of weights), compared_images, max_abs_difference (of two probabilities), input, output,
        labels.

    Raises:
        SpaceError, UsageError, RunError: the model cannot be built, written or opened, or its results differ.
    """
    with precision_policy(FLOAT32):
        network = build_network(*space, params, dataset)
        load_weights(network, str(weights))
        model = _with_pixels_and_probabilities(network, dataset)
    if own := find_own_code(network):
        raise RunError(f"export: {own}, so Keras alone could not open the model. {REMEDY}.")
    pixels, _ = load_split(dataset, "validation")
    difference = _save(model, network, target, np.asarray(pixels[:COMPARED_IMAGES]), dataset)
    return {
        "parameters": int(network.count_params()),
        "compared_images": min(len(pixels), COMPARED_IMAGES),
        "max_abs_difference": difference,
        "input": {"shape": ["batch", *dataset.input_shape], "dtype": "float32", "range": [0, 255]},
        "output": {"shape": ["batch", dataset.classes], "dtype": "float32", "is": "probabilities of the labels"},
        "labels": list(dataset.class_names),
    }


def _with_pixels_and_probabilities(network: Any, dataset: DatasetInfo) -> Any:
    mean, std = channel_scale(dataset)
    variance = (std.astype("float64") ** 2).tolist()
    pixels = keras.Input(dataset.input_shape, name="pixels_0_to_255", dtype="float32")
    standardised = keras.layers.Normalization(mean=mean.tolist(), variance=variance, dtype="float32")(pixels)
    named = keras.Model(network.inputs[0], network.outputs[0], name="network")  # its own name may clash
    probabilities = keras.layers.Softmax(name="probabilities", dtype="float32")(named(standardised))
    return keras.Model(pixels, probabilities, name=dataset.name)


def _save(model: Any, network: Any, target: Path, pixels: Any, dataset: DatasetInfo) -> float:
    """Write the file, and return the largest difference of its probabilities from the network's."""
    try:
        model.save(target)  # before the network runs, which changes its random seeds
        with as_fresh_keras():
            loaded = keras.models.load_model(target, safe_mode=True, compile=False)
    except OSError as error:
        raise file_error(target, error) from error
    logits = network.predict_on_batch(np.asarray(standardise(pixels, *channel_scale(dataset))))
    expected = np.asarray(keras.ops.softmax(keras.ops.cast(logits, "float32")))
    difference = float(np.max(np.abs(loaded.predict_on_batch(pixels) - expected)))
    types = {layer.compute_dtype for layer in all_layers(network)}
    if not difference <= max(LARGEST_DIFFERENCES.get(name, 0.0) for name in (*types, "float32")):
        raise RunError(f"export: the saved model's probabilities differ by {difference:g}. Nothing was exported.")
    return difference
