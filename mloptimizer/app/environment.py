"""Finds what a person's environment and Keras's own file of settings say that Keras could not be imported with."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from mloptimizer.core.check import Check
from mloptimizer.core.errors import UsageError

_COUNTS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
_POSSIBLE = {  # in keras.json; values of other kinds end Keras's import
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
    found = list(_find_wrong())
    if not found:
        return Check("environment", True, "nothing in it or in keras.json keeps Keras from TensorFlow")
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
        yield f"{path}: {wrong}", "correct it, or remove the file: Keras makes it anew"


def _wrong_in(path: Path) -> str:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        return f"cannot be read ({error.strerror})"
    except (OSError, ValueError):  # Keras takes its defaults
        return ""
    if not isinstance(settings, dict):
        return "does not hold a JSON object"
    for name, possible in _POSSIBLE.items():
        if name in settings and settings[name] not in possible:
            return f"{name} = {settings[name]!r} is not possible. Possible: {', '.join(possible)}"
    epsilon = settings.get("epsilon", 0.0)
    return "" if isinstance(epsilon, float) else f"epsilon = {epsilon!r} is not possible. Possible: 1e-07"
