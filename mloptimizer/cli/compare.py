"""The part of `mloptimizer hardware` that compares studies and machines."""

from collections.abc import Sequence
from pathlib import Path

import click

from mloptimizer.cli.options import FILE, Command
from mloptimizer.cli.terminal import open_console, say, show_table
from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import write_bytes, write_text
from mloptimizer.reports.model.comparison import compare, read_prices
from mloptimizer.reports.model.trainings import read_trainings
from mloptimizer.reports.terminal.comparison_table import comparison_chart, comparison_csv, comparison_table
from mloptimizer.store.workspace import Workspace


def compare_options(command: Command) -> Command:
    """Add the options that need --compare."""
    price = "Of a GPU, or of a machine without one; STUDY=PRICE for one of several. Adds the cost of trainings."
    command = click.option("--png", type=FILE, metavar="FILE", help="Write a chart to a file.")(command)
    csv = "Write all numbers, machines and settings to a file."
    command = click.option("--csv", type=FILE, metavar="FILE", help=csv)(command)
    return click.option("--price-per-hour", "prices", multiple=True, metavar="PRICE", help=price)(command)


def show_comparison(
    workspace: Workspace, words: Sequence[str], prices: Sequence[str], csv: Path | None, png: Path | None
) -> None:
    """Show the comparison, and write the requested files."""
    if not words:
        raise UsageError("--compare: names nothing. Possible: studies, STUDY@DIR of another workspace, FILE.json.")
    known = read_prices(prices, words)  # before the reading, which takes longer
    comparison = compare(*read_trainings(words, workspace), known)
    if csv:
        write_text(csv, comparison_csv(comparison))
    if png:
        write_bytes(png, comparison_chart(comparison))
    show_table(comparison_table(comparison))
    for path in (csv, png):
        if path:
            say(open_console(), f"wrote {path}")


def split_study_and_trial(context: click.Context, words: Sequence[str]) -> tuple[str | None, int | None]:
    """Return the study and the trial that the words name, if any. Raises click's error for other words."""
    if len(words) > 2:
        raise click.UsageError(f"Got unexpected extra argument ({words[2]}); --compare takes several studies.", context)
    if len(words) < 2:
        return (words[0] if words else None), None
    return words[0], click.IntRange(min=0)(words[1], click.Argument(["trial"], required=False), context)
