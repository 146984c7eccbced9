"""Exports a trained model as one Keras file that takes raw pixels and gives probabilities.

Guarantees: the file appears whole or not at all, opens with Keras alone (no code of mloptimizer, safe mode), and was
opened again and compared with the trained network before this returned.
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mloptimizer.core.errors import RunError
from mloptimizer.core.nouns import DatasetInfo, Params
from mloptimizer.core.system_errors import file_error
from mloptimizer.data.library import load_split
from mloptimizer.training.input.pipeline import channel_scale, standardise
from mloptimizer.training.network import build_network, load_weights
from mloptimizer.training.step.precision import FLOAT32, precision_policy

COMPARED_IMAGES = 64
LARGEST_DIFFERENCE = 1e-4  # between two probabilities that should be equal, in float32


def export_model(
    space: tuple[str, str], params: Params, dataset: DatasetInfo, weights: Path, target: Path
) -> dict[str, Any]:
    """Write the model to `target` and return what was measured on it.

    The model is rebuilt in float32, whatever it was trained in. It takes pixels from 0 to 255 of shape (batch, height,
    width, channels) and returns probabilities of shape (batch, classes).

    Args:
        space: name and text of the search space.
        weights: the trained ones.
        target: a path that ends in ``.keras``.

    Returns:
        path, parameters (count of weights), compared_images, max_abs_difference (between two probabilities).

    Raises:
        SpaceError, UsageError, RunError: the model cannot be built, written, or the file differs from the network.
    """
    with precision_policy(FLOAT32):
        network = build_network(*space, params, dataset)
        load_weights(network, str(weights))
        model = _with_pixels_and_probabilities(network, dataset)
    pixels, _ = load_split(dataset, "validation")
    pixels = np.asarray(pixels[:COMPARED_IMAGES])
    logits = network.predict_on_batch(np.asarray(standardise(pixels, *channel_scale(dataset))))
    expected = np.asarray(keras.ops.softmax(logits))
    difference = _save(model, target, pixels, expected)
    return {
        "path": str(target),
        "parameters": int(network.count_params()),
        "compared_images": len(pixels),
        "max_abs_difference": difference,
    }


def _with_pixels_and_probabilities(network: Any, dataset: DatasetInfo) -> Any:
    mean, std = channel_scale(dataset)
    pixels = keras.Input(dataset.input_shape, name="pixels", dtype="float32")
    standardised = keras.layers.Normalization(mean=mean.tolist(), variance=(std.astype("float64") ** 2).tolist())(
        pixels
    )
    return keras.Model(pixels, keras.layers.Softmax(name="probabilities")(network(standardised)), name=dataset.name)


def _save(model: Any, target: Path, pixels: Any, expected: Any) -> float:
    """Write the file and return by how much its outputs differ from those expected."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".saving-") as folder:
            temporary = Path(folder) / target.name
            model.save(temporary)
            loaded = keras.models.load_model(temporary, safe_mode=True, compile=False)
            difference = float(np.max(np.abs(loaded.predict_on_batch(pixels) - expected)))
            if not difference <= LARGEST_DIFFERENCE:
                raise RunError(f"{target}: the saved model's outputs differ by {difference:g}. Nothing was exported.")
            temporary.replace(target)
    except OSError as error:
        raise file_error(target, error) from error
    return difference
