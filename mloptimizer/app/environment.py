"""Finds values in the environment and in Keras's own settings file with which Keras could not be imported."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from mloptimizer.core.check import Check
from mloptimizer.core.errors import UsageError

_COUNTS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
_POSSIBLE = {  # in keras.json; other values make Keras's import fail
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
}


def check_environment() -> None:
    """Refuse an environment in which every trial would fail.

    Raises:
        UsageError: with what to change.
    """
    for wrong, advice in _find_wrong():
        raise UsageError(f"{wrong}. {advice[0].upper()}{advice[1:]}.")


def examine_environment() -> Check:
    """Return whether Keras can be imported in this environment."""
    if not (found := list(_find_wrong())):
        return Check("environment", True, "Keras can use TensorFlow with it and keras.json")
    return Check("environment", False, "; ".join(wrong for wrong, _ in found), "; ".join(say for _, say in found))


def _find_wrong() -> Iterator[tuple[str, str]]:
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend not in ("", "tensorflow"):
        yield f"KERAS_BACKEND = {backend}: mloptimizer trains with TensorFlow", "unset KERAS_BACKEND"
    for name in _COUNTS:
        if name in os.environ and not os.environ[name].strip().isdigit():
            yield f"{name} = {os.environ[name]}: is not a number", f"unset {name}"
    home = os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()
    path = Path(home) / "keras.json"
    if wrong := _wrong_in(path):
        yield f"{path}: {wrong}", "fix it, or remove the file: Keras creates it again"


def _wrong_in(path: Path) -> str:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        return f"cannot be read ({error.strerror})"
    except (OSError, ValueError):  # Keras uses its defaults
        return ""
    if not isinstance(settings, dict):
        return "does not hold a JSON object"
    for name, possible in _POSSIBLE.items():
        if name in settings and settings[name] not in possible:
            return f"{name} = {settings[name]!r} is not possible. Possible: {', '.join(possible)}"
    epsilon = settings.get("epsilon", 0.0)
    return "" if isinstance(epsilon, float) else f"epsilon = {epsilon!r} is not possible. Possible: 1e-07"
