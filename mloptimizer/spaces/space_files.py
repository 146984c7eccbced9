"""Reads search spaces from files or text, and samples them; it never imports TensorFlow.

A space is one Python file, and has the name of that file. The workspace's `search_spaces` folder comes before the
built-in one. An error in a person's file becomes one line that names the file and the line.
"""

import copy
import inspect
import linecache
import logging
import math
import random
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

from mloptimizer.config.values import show_value
from mloptimizer.core.errors import MloptimizerError, UsageError, unknown_name
from mloptimizer.core.nouns import DatasetInfo, Params, Scalar
from mloptimizer.core.system_errors import file_error
from mloptimizer.core.words import in_a_line
from mloptimizer.spaces.process_state import process_kept
from mloptimizer.spaces.space_trial import Trial
from mloptimizer.spaces.training_values import check_training_values

_logger = logging.getLogger(__name__)

MODULE_PREFIX = "search_space_"  # of the modules that hold the spaces
# By optimizer: learning rates that suit a few hundred steps at a global batch size of 64; log-uniform.
LEARNING_RATES = {"adamw": (5e-4, 1e-2), "sgd": (2e-2, 3e-1), "lion": (1e-4, 2e-3)}


class Suggest(Protocol):
    """The suggest methods of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class SearchSpace:
    """A family of architectures: `sample` chooses plain values, `build` turns them into a Keras model."""

    name: str
    source: str  # text of its file, sent to the workers and stored with the study
    summary: str  # first line of its docstring
    sample: Callable[[Suggest, DatasetInfo], dict[str, Scalar]]
    build: Callable[[Params, DatasetInfo], Any]


def builtin_folder() -> Path:
    """Return the folder of the built-in spaces: inside the installed package, or beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def find_spaces(own_folder: Path) -> dict[str, Path]:
    """Return the file of every space by name, sorted; a person's own space hides a built-in one of the same name.

    Args:
        own_folder: `Workspace.search_spaces`; it may be missing. Files that start with ``_`` are skipped.
    """
    found: dict[str, Path] = {}
    for folder in (own_folder, builtin_folder()):
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_") or not path.is_file():
                continue
            if path.stem.isidentifier():
                found.setdefault(path.stem, path)
            else:
                _logger.warning("%s: is skipped. The name of a search space consists of letters, digits and '_'.", path)
    return dict(sorted(found.items()))


def read_spaces(names: Sequence[str], own_folder: Path) -> list[SearchSpace]:
    """Return the named spaces, each once, or all spaces if `names` is empty; other files are not run.

    Raises:
        UsageError: a name is unknown, or a file cannot be read or is not a search space.
    """
    found = find_spaces(own_folder)
    for name in names:
        if name not in found:
            raise unknown_name("--space", "search space", name, found)
    return [read_space(name, found[name]) for name in dict.fromkeys(names or found)]


def read_space(name: str, path: Path) -> SearchSpace:
    """Return the space in the file. Raises UsageError: the file cannot be read or is not a search space."""
    try:
        source = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise file_error(path, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    return load_space(name, source, str(path))


def load_space(name: str, source: str, place: str) -> SearchSpace:
    """Return the space that the text defines, without reading any file.

    Args:
        place: where the text comes from, for errors and tracebacks.

    Raises:
        UsageError: the text does not run, or does not define `sample` and `build`.
    """
    module = _make_module(MODULE_PREFIX + name, source, place)
    try:
        with process_kept():
            exec(compile(source, place, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # a person's own code may raise anything
        raise UsageError(f"{_explain(error, name, place)}. Correct it, or remove the file.") from error
    for function in ("sample", "build"):
        if not callable(getattr(module, function, None)):
            raise UsageError(
                f"{place}: does not define the function '{function}'. "
                "A search space defines sample(trial, dataset) and build(params, dataset)."
            )
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return SearchSpace(name, source, summary, module.sample, module.build)


def _make_module(name: str, source: str, place: str) -> ModuleType:
    """Return a new, empty module of `sys.modules`; Python finds its text without a file."""
    module = ModuleType(name)
    module.__file__ = place
    # Tracebacks and TensorFlow's AutoGraph read the text of functions from linecache. AutoGraph drops the entry first
    # and then asks the loader (PEP 302), so both are needed.
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    module.__dict__["__loader__"] = SimpleNamespace(get_source=lambda _: source)
    sys.modules[name] = module  # dataclasses and pickle look up the module of a class
    return module


def sample_params(space: SearchSpace, trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    """Return the values that the space chooses for the trial: plain data.

    Raises:
        UsageError: `sample` raised, or did not return plain values by name.
    """
    written = inspect.unwrap(space.sample)  # the person's function; a wrapper has another file
    place = getattr(written, "__globals__", {}).get("__file__") or f"search space '{space.name}'"
    try:
        with process_kept():
            params = space.sample(Trial(trial), copy.copy(dataset))
    except MloptimizerError:
        raise
    except BaseException as error:  # a person's own code may raise anything, and end the program
        raise UsageError(f"{_explain(error, space.name, place)}. Correct `sample`.") from error
    if not isinstance(params, Mapping):
        raise UsageError(f"{place}: sample returned a {type(params).__name__}. Possible: a dict of plain values.")
    check_training_values(params, place)
    for key, value in params.items():
        if type(key) is not str or not _is_plain(key) or not _is_plain(value):
            raise UsageError(
                f"{place}: sample returned {show_value(key)}: {show_value(value)}. "
                "Possible: a name with a string, a boolean, an integer of 64 bits or a finite number."
            )
    return dict(params)


def _is_plain(value: object) -> bool:
    """Whether JSON and databases can store the value: numbers of 64 bits, and strings of valid characters."""
    if type(value) is str:
        return "\0" not in value and value.encode(errors="ignore").decode() == value
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and value.bit_length() < 64)


def _explain(error: BaseException, name: str, place: str) -> str:
    """Return ``place, line N: what is wrong``, where N is the innermost line of the space in the traceback."""
    steps, module = traceback.walk_tb(error.__traceback__), MODULE_PREFIX + name
    lines = [line for frame, line in steps if frame.f_globals.get("__name__") == module]
    if not lines and isinstance(error, SyntaxError):
        return f"{place}, line {error.lineno or 1}: {error.msg}"
    where = f"{place}, line {lines[-1]}" if lines else place
    return f"{where}: {type(error).__name__}: {in_a_line(error)}"


def suggest_optimizer(trial: Suggest) -> dict[str, Scalar]:
    """Return the optimizer's part of a configuration, the same for every family.

    Returns:
        optimizer: adamw, sgd (with Nesterov momentum 0.9) or lion. learning_rate: peak at a global batch size of 64;
        each optimizer has its own parameter in the study, because good rates differ by a factor of up to 100.
        weight_decay: decoupled, as Keras applies it (times the learning rate). label_smoothing: share of the target
        that is spread evenly over the classes.
    """
    optimizer = trial.suggest_categorical("optimizer", ["adamw", "sgd", "lion"])
    low, high = LEARNING_RATES[optimizer]
    return {
        "optimizer": optimizer,
        "learning_rate": trial.suggest_float(f"{optimizer}_learning_rate", low, high, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 5e-3, log=True),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05),
    }


class RandomSuggest:
    """Draws every value at random, without a study; a repeated name keeps its value, as in an Optuna trial."""

    def __init__(self, seed: int) -> None:
        self.params: dict[str, Any] = {}  # drawn so far
        self._random = random.Random(seed)

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Return an integer from low to high, both included; with `log`, small ones are likelier."""
        _check_range(name, low, high, log)
        if log:
            drawn = min(max(round(self._draw_log(low - 0.5, high + 0.5)), low), high)
        else:
            drawn = self._random.randrange(low, high + 1, step)
        return int(self.params.setdefault(name, drawn))

    def suggest_float(self, name: str, low: float, high: float, step: float | None = None, log: bool = False) -> float:
        """Return a number from low to high: uniform, log-uniform, or one of low, low + step, …"""
        _check_range(name, low, high, log)
        if log:
            drawn = min(max(self._draw_log(low, high), low), high)
        elif step is None:
            drawn = self._random.uniform(low, high)
        else:
            steps = math.floor((high - low) / step + 1e-9)
            drawn = round(low + step * self._random.randint(0, steps), 12)
        return float(self.params.setdefault(name, drawn))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return self.params.setdefault(name, self._random.choice(choices))

    def _draw_log(self, low: float, high: float) -> float:
        return math.exp(self._random.uniform(math.log(low), math.log(high)))


def _check_range(name: str, low: float, high: float, log: bool) -> None:
    if low > high or (log and low <= 0):
        raise ValueError(f"parameter '{name}': the range {low} to {high} is not possible")
