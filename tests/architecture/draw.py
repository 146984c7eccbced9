"""Draws docs/architecture.md's parts that come from the code; CI fails when they are stale.

python -m tests.architecture.draw            write them
python -m tests.architecture.draw --check    end with 1 if they are stale
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mloptimizer"
PAGE = ROOT / "docs" / "architecture.md"

# The way of a search: in each function the next one is called, or handed on to be called.
WAY = [
    ("cli/searching.py", "start_search", "run_request"),
    ("app/assembly.py", "run_request", "run_search"),
    ("search/phase_order.py", "_run_phase", "Loop"),
    ("search/loop.py", "_start", "start"),
    ("engines/process/process_engine.py", "_launch", "serve"),
    ("engines/process/child.py", "serve", "run_trial"),
    ("training/worker.py", "run_plan", "run_trial"),
    ("training/trial.py", "_fit", "fit"),
    ("training/callbacks.py", "on_epoch_end", "_emit"),
    ("training/trial.py", "_record", "emit"),
    ("engines/process/process_engine.py", "_receive", "recv"),
    ("search/loop.py", "_take_epoch", "epoch_ended"),
    ("cli/display.py", "epoch_ended", ""),
]


def render_rooms() -> str:
    """Return a row per room: its name, what it does, and which rooms it imports from."""
    imports: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mloptimizer."):
                imports[room].add(str(node.module).split(".")[1])
    rooms = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    rooms.sort(key=lambda room: (len(_below(room.name, imports)), room.name))
    lines = ["| room | what it does, what comes in and what goes out | imports from |", "|---|---|---|"]
    for room in rooms:
        text = " ".join((ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "").split())
        others = ", ".join(sorted(imports[room.name] - {room.name})) or "nothing of ours"
        lines.append(f"| `{room.name}/` | {text} | {others} |")
    return "\n".join(lines) + "\n"


def _below(room: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [room]
    while todo:
        fresh = imports[todo.pop()] - found - {room}
        found |= fresh
        todo += fresh
    return found


def render_way() -> str:
    """Return a row per step of a search, from the command to a trained epoch and back.

    Raises:
        LookupError: a function is not there any more, or does not name the next one.
    """
    lines = ["| step | file | function | calls, or hands on to |", "|--:|---|---|---|"]
    for number, (file, name, following) in enumerate(WAY, start=1):
        function = _find(PACKAGE / file, name)
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        if following and following not in names:
            raise LookupError(f"{file}: {name} does not name {following}")
        lines.append(f"| {number} | `{file}` | `{name}` | {f'`{following}`' if following else 'the screen'} |")
    files = {file for file, _, _ in WAY}
    return "\n".join(lines) + f"\n\nThese are {len(files)} files.\n"


def _find(path: Path, name: str) -> ast.FunctionDef:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{path.relative_to(ROOT)}: there is no {name}")


def render_page(text: str) -> str:
    """Return the page with its parts drawn anew."""
    for title, part in (("rooms", render_rooms()), ("way", render_way())):
        before, _, rest = text.partition(f"<!-- {title}: drawn from the code -->\n")
        _, _, after = rest.partition("<!-- end -->\n")
        text = f"{before}<!-- {title}: drawn from the code -->\n\n{part}\n<!-- end -->\n{after}"
    return text


def main() -> None:
    """Write the page, or say that it is stale."""
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if render_page(text) == text else "docs/architecture.md is stale: python -m tests.architecture.draw")
    PAGE.write_text(render_page(text), encoding="utf-8")


if __name__ == "__main__":
    main()
