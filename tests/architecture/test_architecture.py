"""The structure of the package: who may import whom, and how large a part may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mloptimizer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mloptimizer"

# Each line imports only from the lines above it. Rooms of one line know each other through nouns of `core` and through
# callables that `app` hands in. Inside a room there are no cycles.
ROOMS = [
    "core",
    "config",
    "data spaces hardware",
    "store study engines training",
    "search tuning",
    "reports",
    "app",
    "cli",
    "__main__",
]
MAY_IMPORT = {
    "tensorflow": "training.",
    "keras": "training.",
    "optuna": "study.",
    "optuna_dashboard": "reports.dashboard",
    "pynvml": "hardware.read.",
    "click": "cli.",
    "filelock": "core.locks study.journal_lock",
    "sqlalchemy": "study.storage",
    "prometheus_client": "reports.prometheus",
    "rich": "cli. reports.terminal.",
    "ray": "engines.ray.",
    "fsspec": "engines.ray.remote",
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_ARGUMENTS = 6


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"}
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms.split()}


def imports(name: str, only_at_import: bool = False) -> Iterator[str]:
    """Yield the modules that the file imports, those under TYPE_CHECKING left out."""
    todo: list[ast.AST] = [ast.parse(FILES[name].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif not (only_at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            todo += ast.iter_child_nodes(node)


def own_imports(name: str) -> set[str]:
    prefix = "mloptimizer."
    return {module.removeprefix(prefix) for module in imports(name) if module.removeprefix(prefix) in FILES}


def room(name: str) -> str:
    return name.partition(".")[0]


def test_the_package_holds_rooms_only() -> None:
    assert {room(name) for name in FILES} == set(RANK)
    plain = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert plain == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_from_its_own_room_and_from_rooms_above(name: str) -> None:
    mine = room(name)
    assert {other for other in own_imports(name) if room(other) != mine and RANK[room(other)] >= RANK[mine]} == set()


def test_no_module_imports_itself_over_others() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in own_imports(name):
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_a_library_is_imported_only_where_it_lives(name: str) -> None:
    for module in imports(name):
        allowed = MAY_IMPORT.get(module.partition(".")[0])
        if allowed is not None:
            homes = allowed.split()
            assert name in homes or any(name.startswith(home) for home in homes if home.endswith(".")), module


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("training.")])
def test_a_driver_module_loads_nothing_heavy_when_it_is_imported(name: str) -> None:
    heavy = {"tensorflow", "keras", "pandas", "sklearn", "scipy", "sqlalchemy", "matplotlib"}
    assert {module.partition(".")[0] for module in imports(name, only_at_import=True)} & heavy == set()


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_readable(name: str) -> None:
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
            positional = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            is_command = name.startswith("cli.") and node.decorator_list  # click passes options by name
            assert len(positional) <= MAX_ARGUMENTS or is_command, node.name


def public_names(name: str) -> Iterator[str]:
    """Yield the names that the module gives to its functions, classes and constants for others to use."""
    for node in ast.parse(FILES[name].read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        for each in (part for target in targets for part in getattr(target, "elts", [target])):
            given = getattr(each, "name", None) or getattr(each, "id", "_")
            if not given.startswith("_"):
                yield given


def test_a_public_name_has_one_meaning() -> None:
    homes: dict[str, set[str]] = {}
    for name in FILES:
        for given in public_names(name):
            homes.setdefault(given, set()).add(name)
    assert {given: names for given, names in homes.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", FILES)
def test_modules_and_public_functions_say_what_they_do(name: str) -> None:
    tree = ast.parse(FILES[name].read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_rooms_say_what_they_do_and_re_export_nothing() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        # A space imports from `mloptimizer.spaces`; the program begins with `mloptimizer.cli`.
        if path.parent not in (PACKAGE, PACKAGE / "spaces", PACKAGE / "cli"):
            assert len(tree.body) == 1, path


def test_the_public_names_are_those_in_all() -> None:
    public = {name for name in vars(mloptimizer) if not name.startswith("_")}
    modules = {name.partition(".")[0] for name in FILES}
    assert public - modules <= set(mloptimizer.__all__)
    assert all(hasattr(mloptimizer, name) for name in mloptimizer.__all__)


def test_the_whole_driver_runs_without_tensorflow() -> None:
    code = (
        "import sys, mloptimizer.app.assembly, mloptimizer.cli.main; "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
