"""Finds what prevents a model from opening with Keras alone, without the code that built it."""

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mloptimizer.spaces.space_files import MODULE_PREFIX
from mloptimizer.training.keras_internals import all_layers

REMEDY = "Build it of Keras's own layers and activations, with keras.ops between layers"


def find_own_code(network: Any) -> str:
    """Describe the first layer that Keras alone cannot rebuild; empty if there is none.

    A layer is rebuilt, without its weights, if its configuration holds more than Keras's classes and plain values.
    """
    layers = all_layers(network)
    for part in (*layers, *(part for layer in layers for part in getattr(layer, "operations", ()))):
        if not type(part).__module__.startswith("keras."):
            return f"layer '{part.name}' is of the class {type(part).__name__}, which Keras does not have"
    for layer in layers:
        if not isinstance(layer, keras.Model) and (reason := _try(layer)):
            return f"layer '{layer.name}' ({type(layer).__name__}) {reason}"
    return ""


def _try(layer: Any) -> str:
    """Return why Keras alone cannot rebuild the layer from its configuration; empty if it can."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a lambda
            saved = keras.saving.serialize_keras_object(layer)
    except Exception:  # noqa: BLE001  (it calls the space's objects)
        return "has an argument that Keras cannot save"
    if own := next(_own_code([*saved["config"].values()]), ""):
        with as_fresh_keras():
            try:
                keras.saving.deserialize_keras_object({**saved, "build_config": None}, safe_mode=True)
            except Exception:  # noqa: BLE001  (as many kinds as there are classes)
                return f"needs {own}, which Keras does not have"
    return _compare_activations(layer, saved["config"].get("activation"))


def _own_code(value: Any) -> Iterator[str]:
    """Yield the parts of a configuration that may be the user's code."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _own_code(item)
    elif isinstance(value, Mapping) and value:
        name, module = value.get("class_name", "__lambda__"), value.get("module") or "keras"
        if name == "function":
            yield f"the function '{value['config']}'"
        elif name == "__lambda__":
            yield "a Python lambda"
        elif module.partition(".")[0] != "keras":
            yield f"the class {name}"
        elif not name.startswith("__"):  # otherwise a tensor, a slice and the like
            yield from _own_code([*value.get("config", {}).values()])


def _compare_activations(layer: Any, saved: Any) -> str:
    """Return that Keras saves the name of another function: `keras.ops.gelu` is not `"gelu"`."""
    used = getattr(layer, "activation", None)
    if not isinstance(saved, str) or used is None or (named := keras.activations.get(saved)) is used:
        return ""
    values = keras.ops.reshape(keras.ops.linspace(-4.0, 4.0, 64), (1, 64))
    try:
        same = np.allclose(used(values), named(values), atol=1e-6)
    except Exception:  # noqa: BLE001  (the user's function may need another shape)
        same = False
    return "" if same else f"has an activation that Keras saves as its own '{saved}', which gives other values"


@contextlib.contextmanager
def as_fresh_keras() -> Iterator[None]:
    """Hide, within the block, what search spaces have defined and registered."""
    registered = keras.saving.get_custom_objects()
    objects = dict(registered)
    registered.clear()
    modules = {name: sys.modules.pop(name) for name in [*sys.modules] if name.startswith(MODULE_PREFIX)}
    try:
        yield
    finally:
        registered.update(objects)
        sys.modules.update(modules)
