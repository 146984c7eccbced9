"""How the package uses other libraries: what it imports is declared, and what they keep to themselves stays theirs."""

import ast
import configparser
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.test_architecture import FILES, PACKAGE, ROOT, imports

# The modules that may use what a library keeps to itself, and the test that fails when the library changes it.
ADAPTERS = {
    "data.pickled_batches": ("python", "tests/data/test_formats.py"),
    "data.sources": ("scikit-learn", "tests/data/test_formats.py"),  # reads a file of its package
    "engines.process.fork_server": ("python", "tests/engines/test_ends.py"),
    "engines.ray.ray_internals": ("ray", "tests/engines/test_ray_internals.py"),
    "hardware.analysis.grid": ("codecarbon", "tests/hardware/test_trial_summary.py"),  # reads a file of its package
    "spaces.process_state": ("python", "tests/spaces/test_process_state.py"),  # the environment as the system has it
    "study.optuna_internals": ("optuna", "tests/study/test_optuna_internals.py"),
    "training.keras_internals": ("keras", "tests/training/test_library_internals.py"),
    "training.tensorflow_internals": ("tensorflow", "tests/training/test_library_internals.py"),
}
PRIVATE = re.compile(
    r"tensorflow\.(python|core|compiler)\b|click\.core\b|keras\.src\b|multiprocessing\.(util|forkserver|resource_tracker)\b"
    r"|(?!__)(.*\.)?_(?!_)"
)
PUBLIC = {"os._exit"}
BY_OTHERS = {"torch": "Optuna's Gaussian processes import it", "cmaes": "Optuna's CMA-ES imports it"}


def own_names(tree: ast.AST) -> set[str]:
    """Return the names that a module gives to its functions, classes, fields and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def private_uses(name: str) -> Iterator[str]:
    """Yield what the module uses that a library, or another module, keeps to itself."""
    tree = ast.parse(FILES[name].read_text())
    yield from (module for module in imports(name) if PRIVATE.match(module))
    mine = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_dunder = node.attr.startswith("__") and node.attr != "__internal__"
            if node.attr == "submodule_search_locations" or (
                node.attr.startswith("_") and not is_dunder and node.attr not in mine
            ):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            attribute = node.args[1]
            if isinstance(attribute, ast.Constant) and re.match("_(?!_)", attribute.value):
                yield ast.unparse(node)


def test_every_way_to_something_private_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [
        "import keras.src.layers",
        "from ray import _private",
        "from tensorflow.python.data import ops",
        "network._flatten_layers()",
        "getattr(tensor, '_keras_mask', None)",
        "find_spec('sklearn').submodule_search_locations",
    ]
    for number, way in enumerate([*ways, "from __future__ import annotations", "type(self).__module__", "os.getpid()"]):
        monkeypatch.setitem(FILES, "module", tmp_path / f"{number}.py")
        FILES["module"].write_text(way)
        assert bool(set(private_uses("module"))) == (way in ways), way


@pytest.mark.parametrize("name", FILES)
def test_what_a_library_keeps_to_itself_is_used_in_one_module_only(name: str) -> None:
    found = set(private_uses(name)) - PUBLIC
    assert bool(found) == (name in ADAPTERS), found


def declared(*extras: str) -> list[Requirement]:
    """Return what setup.cfg requires, with these extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


EXTRAS = ("gpu", "gp", "cmaes", "carbon", "postgresql", "ray")


@pytest.mark.parametrize(("library", "test"), sorted(set(ADAPTERS.values())))
def test_a_library_that_is_known_from_within_is_pinned_and_tested(library: str, test: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    bounds = [str(requirement.specifier) for requirement in declared(*EXTRAS) if requirement.name == library]
    for bound in bounds or [config["options"]["python_requires"]]:
        assert "<" in bound
    assert (ROOT / test).is_file()


def imported() -> set[str]:
    """Return the packages that the code imports or looks for, Python's own and ours left out."""
    names = {module.partition(".")[0] for name in FILES for module in imports(name)}
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "search_spaces").glob("*.py")]:
        names |= set(re.findall(r"find_spec\(\"(\w+)\"\)", path.read_text()))
    return names - {"mloptimizer", ""} - sys.stdlib_module_names


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    brought_by = importlib.metadata.packages_distributions()
    used = {name: {canonicalize_name(found) for found in brought_by.get(name, [name])} for name in imported()}
    names = {canonicalize_name(requirement.name) for requirement in declared(*EXTRAS)}
    assert {name for name, packages in used.items() if not packages & names} == set()
    assert names - set().union(*used.values()) == set(BY_OTHERS)
