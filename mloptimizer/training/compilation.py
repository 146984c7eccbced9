"""Chooses whether XLA compiles the training step."""

from mloptimizer.training.devices import Decide, Devices

STEPS_THAT_PAY = 2_000  # an estimate: compiling takes tens of seconds, a compiled step saves some milliseconds


def choose_xla(setting: str, devices: Devices, steps: int, decide: Decide) -> bool:
    """Return whether to compile, with `steps` training steps to come."""
    if setting != "auto":
        decide("XLA", setting, "set by the person")
        return setting == "on"
    if devices.kind == "CPU":
        decide("XLA", "off", "on a CPU compiling takes seconds and steps get no faster")
        return False
    pays = steps >= STEPS_THAT_PAY
    sign = "at least" if pays else "fewer than"
    decide("XLA", "on" if pays else "off", f"{steps} steps to come, {sign} the {STEPS_THAT_PAY} that pay for compiling")
    return pays
