"""Chooses whether XLA compiles the training step."""

from typing import Any

import keras

from mloptimizer.config.settings import Settings
from mloptimizer.training.devices import Decide, Devices
from mloptimizer.training.keras_internals import all_layers
from mloptimizer.training.trial_failures import SpaceError

STEPS_THAT_PAY = 2_000  # an estimate: compiling takes tens of seconds, a compiled step saves milliseconds


def choose_xla(settings: Settings, devices: Devices, steps: int, decide: Decide) -> bool:
    """Return whether to compile a training of `steps` steps."""
    if settings.xla != "auto":
        decide("XLA", settings.xla, "set by the user, or measured by tune")
        return settings.xla == "on"
    for name in ("deterministic", "check_numerics"):
        if getattr(settings, name):
            decide("XLA", "off", f"{name} is on")
            return False
    if devices.kind == "CPU":
        decide("XLA", "off", "on a CPU compiling takes seconds and makes no step faster")
        return False
    pays = steps >= STEPS_THAT_PAY
    decide("XLA", "on" if pays else "off", f"{steps} training steps; compiling pays from {STEPS_THAT_PAY} on")
    return pays


def can_compile(network: Any, devices: Devices, insists: bool, decide: Decide) -> bool:
    """Return whether XLA can compile the network on each replica.

    Raises:
        SpaceError: it cannot, and the user insists.
    """
    norms = [layer for layer in all_layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    synchronized = [layer.name for layer in norms if layer.synchronized]
    if devices.replicas == 1 or not synchronized:
        return True
    reason = f"layer '{synchronized[0]}' normalises over all replicas, which cannot be compiled on each"
    if insists:
        raise SpaceError(f"xla = on: {reason}. Possible: xla = auto, or BatchNormalization(synchronized=False).")
    decide("XLA", "off", reason)
    return False
