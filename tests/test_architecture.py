"""The structure of the package: who may import whom, and how large a part may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mloptimizer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mloptimizer"

# Each line imports only from the lines above it, and parts of one line from one another without a cycle.
LAYERS = [
    "errors",
    "files profiles conflicts",
    "settings",
    "setting_values",
    "settings_file records",
    "batches workspace interrupts terminal hardware.columns hardware.nvml hardware.gpu_readings hardware.throttling"
    " hardware.vendors hardware.rapl hardware.machine hardware.memory hardware.facts hardware.live hardware.watts"
    " hardware.training_clock hardware.reader"
    " hardware.monitor hardware.thinning hardware.log hardware.trace hardware.energy hardware.clocks hardware.grid"
    " hardware.summary hardware.evidence hardware.diagnosis datasets.catalog datasets.formats"
    " datasets.sources datasets.split datasets.cache datasets.process datasets.library",
    "observer disk_watch orders spaces metrics_readme",
    "metrics_store machine_file engines.base engines.cores engines.deaths engines.trees engines.lifeline"
    " engines.left_over engines.gpu_memory slots requirements",
    "augmented_spaces attempts memory_watch packing running deadlines"
    " study.patience study.journal_lock study.journal study.storage study.history study.pruning"
    " study.bounded_sampler study.samplers"
    " study.tally study.trials study.suggestions study.phase_study"
    " study.answers study.earlier study.warm_start study.study"
    " engines.thread engines.process engines.preload engines.fork_server engines.child"
    " engines.ray.shapes engines.ray.parcels engines.ray.node_data engines.ray.remote engines.ray.cluster"
    " engines.ray.failures engines.ray.nodes engines.ray.agent engines.ray.agents engines.ray.engine"
    " training.devices training.precision training.compilation training.schedule training.optimizers training.network"
    " training.pipeline training.augmentation training.randaugment training.clipping training.remat training.memory"
    " training.activations training.batch_size training.setup training.stability training.model"
    " training.failures training.callbacks training.probe training.checkpoint_files training.checkpoints training.run",
    "job budgets activity recorder",
    "control phases",
    "waiting",
    "loop",
    "search training.trial training.export training.preload",
    "worker reports.figures reports.standings reports.trials reports.trial reports.hardware reports.study"
    " reports.summaries reports.diagnosis reports.listings reports.trainings reports.comparison"
    " reports.comparison_views reports.running reports.top prometheus dashboard probe_checks doctor display",
    "continuation measurement",
    "tuning_plans",
    "tuning preparation gpu_division",
    "bench machine_bench",
    "reports.bench",
    "engines.ray.doctor",
    "machines",
    "launch",
    "commands.options",
    "commands.search commands.comparison",
    "commands.control commands.results commands.watching commands.workspace commands.measurements commands.cluster",
    "cli",
    "__main__",
]
MAY_IMPORT = {
    "tensorflow": "training.",
    "keras": "training.",
    "optuna": "study.",
    "optuna_dashboard": "dashboard",
    "pynvml": "hardware.nvml hardware.gpu_readings",
    "click": "cli commands.",
    "sqlalchemy": "study.storage",
    "prometheus_client": "prometheus",
    "ray": "engines.ray.",
    "fsspec": "engines.ray.remote",
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_ARGUMENTS = 6


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer.split()}


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


@pytest.mark.parametrize("name", FILES)
def test_every_module_has_its_place(name: str) -> None:
    assert name in RANK


def test_every_place_has_its_module() -> None:
    assert set(RANK) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_from_its_own_line_and_those_above(name: str) -> None:
    assert {other for other in own_imports(name) if RANK[other] > RANK[name]} == set()


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
            is_command = name.startswith("commands.") and node.decorator_list  # click passes options by name
            assert len(positional) <= MAX_ARGUMENTS or is_command, node.name


@pytest.mark.parametrize("name", FILES)
def test_modules_and_public_functions_say_what_they_do(name: str) -> None:
    tree = ast.parse(FILES[name].read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_inner_packages_re_export_nothing() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text().strip() == ""


def test_the_public_names_are_those_in_all() -> None:
    public = {name for name in vars(mloptimizer) if not name.startswith("_")}
    modules = {name.partition(".")[0] for name in FILES}
    assert public - modules <= set(mloptimizer.__all__)
    assert all(hasattr(mloptimizer, name) for name in mloptimizer.__all__)


def test_the_whole_driver_runs_without_tensorflow() -> None:
    code = "import sys, mloptimizer.launch, mloptimizer.cli; print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
