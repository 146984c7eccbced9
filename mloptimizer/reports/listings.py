"""Tables of what a person can choose from: data sets, search spaces, settings."""

from rich.table import Table

from mloptimizer.datasets.library import list_datasets
from mloptimizer.errors import UsageError
from mloptimizer.settings import Settings, describe_choices
from mloptimizer.spaces import find_spaces, load_space
from mloptimizer.workspace import Workspace


def datasets_table() -> Table:
    """Return the data sets with size, shape, classes and where they are on this machine."""
    table = Table("data set", "images", "test", "shape", "classes", "on this machine", box=None, header_style="bold")
    for summary in list_datasets():
        shape = "×".join(str(side) for side in summary.input_shape)
        sizes = (f"{summary.train_size:,}", f"{summary.test_size:,}")
        table.add_row(summary.name, *sizes, shape, str(summary.classes), summary.found or "no; downloaded when used")
    return table


def spaces_table(workspace: Workspace) -> Table:
    """Return the search spaces with what they are and where they come from; broken ones say why."""
    table = Table("space", "what it is", "file", box=None, header_style="bold")
    for name, path in find_spaces(workspace.search_spaces).items():
        try:
            summary = load_space(name, path.read_text(encoding="utf-8"), str(path)).summary
        except (UsageError, OSError, UnicodeDecodeError) as error:
            summary = f"broken: {error}"
        table.add_row(name, summary, str(path))
    return table


def settings_table(settings: Settings) -> Table:
    """Return every setting with its value, what it means and what is possible."""
    table = Table("setting", "value", "meaning", "possible", box=None, header_style="bold")
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        style = "" if value == field.default else "bold"
        table.add_row(name, str(value), field.description or "", describe_choices(name), style=style)
    return table
