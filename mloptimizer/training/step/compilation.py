"""Chooses whether XLA compiles the training step."""

from typing import Any

import keras

from mloptimizer.config.settings import Settings
from mloptimizer.training.devices import Decide, Devices
from mloptimizer.training.keras_internals import all_layers
from mloptimizer.training.trial_failures import SpaceError

STEPS_THAT_PAY = 2_000  # an estimate: compiling takes tens of seconds, a compiled step saves some milliseconds


def choose_xla(settings: Settings, devices: Devices, steps: int, decide: Decide) -> bool:
    """Return whether to compile, with `steps` training steps to come."""
    if settings.xla != "auto":
        decide("XLA", settings.xla, "set by the person, or measured by tune")
        return settings.xla == "on"
    for name in ("deterministic", "check_numerics"):
        if getattr(settings, name):
            decide("XLA", "off", f"{name} is on")
            return False
    if devices.kind == "CPU":
        decide("XLA", "off", "on a CPU compiling takes seconds and steps get no faster")
        return False
    pays = steps >= STEPS_THAT_PAY
    sign = "at least" if pays else "fewer than"
    decide("XLA", "on" if pays else "off", f"{steps} steps to come, {sign} the {STEPS_THAT_PAY} that pay for compiling")
    return pays


def can_compile(network: Any, devices: Devices, insists: bool, decide: Decide) -> bool:
    """Return whether XLA can compile the network on each replica.

    Raises:
        SpaceError: it cannot, and the person insists.
    """
    synchronized = [layer.name for layer in all_layers(network) if _talks_between_replicas(layer)]
    if devices.replicas == 1 or not synchronized:
        return True
    reason = f"layer '{synchronized[0]}' normalises over all replicas, which cannot be compiled on each"
    if insists:
        raise SpaceError(f"xla = on: {reason}. Possible: xla = auto, or BatchNormalization(synchronized=False).")
    decide("XLA", "off", reason)
    return False


def _talks_between_replicas(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and bool(layer.synchronized)
