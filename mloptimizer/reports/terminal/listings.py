"""Tables of what a person can choose from: studies, data sets and search spaces."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from mloptimizer.core.errors import UsageError
from mloptimizer.data.catalog import CATALOG
from mloptimizer.data.library import list_datasets
from mloptimizer.reports.formatting import MISSING
from mloptimizer.reports.model.studies import StudyLine
from mloptimizer.spaces.space_files import find_spaces, load_space
from mloptimizer.store.workspace import Workspace


def studies_table(studies: Sequence[StudyLine]) -> Table:
    """Return a row per study: what it searches, how far it is, and its best value."""
    table = Table("study", "data set", "state", "trials", "best value", "last change", box=None, header_style="bold")
    for study in studies:
        trials = f"{study.done} of {MISSING if study.planned is None else study.planned}"
        best = f"{study.objective} {study.best:.4f}" if study.best is not None else MISSING
        changed = datetime.fromisoformat(study.changed_utc).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(study.name, study.dataset or MISSING, study.state, trials, best, changed)
    return table


def datasets_table() -> Table:
    """Return the data sets with size, shape, classes and where they are on this machine."""
    table = Table("data set", "images", "test", "shape", "classes", "on this machine", box=None, header_style="bold")
    for name, place in list_datasets().items():
        dataset = CATALOG[name]
        shape = "×".join(map(str, dataset.input_shape))
        sizes = (f"{dataset.train_size:,}", f"{dataset.test_size:,}")
        table.add_row(name, *sizes, shape, str(dataset.classes), place or "no; downloaded when used")
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
