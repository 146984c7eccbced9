"""Shows the doctor's findings about this machine, and about the nodes of a cluster."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mloptimizer.core.check import Check, NodeFacts
from mloptimizer.reports.terminal.fitting_table import FittingTable


def doctor_table(checks: Sequence[Check]) -> RenderableType:
    """Return one row per check with its result, and with advice where something should be done."""
    marks = {True: ("ok", "green"), False: ("wrong", "bold red"), None: ("note", "yellow")}
    grid = Table.grid(padding=(0, 2))
    for check in checks:
        text = Text(check.found)
        if check.advice:
            text.append(f"\n→ {check.advice}", style="bold" if check.ok is False else "")
        grid.add_row(Text(*marks[check.ok]), Text(check.name), text)
    wrong = [check.name for check in checks if check.ok is False]
    ending = f"To fix: {', '.join(wrong)}." if wrong else "Nothing is wrong."
    return Group(grid, Text(f"\n{ending}", style="bold red" if wrong else "bold green"))


def cluster_table(nodes: Sequence[NodeFacts], checks: Sequence[Check]) -> RenderableType:
    """Return one row per node, and below the nodes one row per check."""
    table = FittingTable("node", lined=False)
    table.add_numbers("CPUs", "GPUs")
    table.add_words("Python, mloptimizer, TensorFlow, Keras, Ray", "clock", "data sets")
    for node in nodes:
        found = [node.versions.get(name, "?") for name in ("python", "mloptimizer", "tensorflow", "keras", "ray")]
        gpus, clock = f"{len(node.gpus_seen)} of {node.gpus:g}", f"{node.skew_seconds:+.1f} s"
        table.add_row(node.host, f"{node.cpus:g}", gpus, ", ".join(found), clock, ", ".join(node.data))
    return Group(table, Text(""), doctor_table(checks))
