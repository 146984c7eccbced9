"""Tables that a person chooses from: studies, data sets and search spaces."""

from collections.abc import Sequence
from datetime import datetime

from mloptimizer.core.errors import UsageError
from mloptimizer.data.catalog import CATALOG
from mloptimizer.data.library import list_datasets
from mloptimizer.reports.formatting import MISSING
from mloptimizer.reports.model.studies import StudyLine
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.spaces.space_files import find_spaces, load_space
from mloptimizer.store.workspace import Workspace


def studies_table(studies: Sequence[StudyLine]) -> FittingTable:
    """Return a row per study with data set, progress and best value."""
    table = FittingTable("study", "data set", "state", "trials", "best value", "last change")
    for study in studies:
        trials = f"{study.done} of {MISSING if study.planned is None else study.planned}"
        best = f"{study.objective} {study.best:.4f}" if study.best is not None else MISSING
        changed = datetime.fromisoformat(study.changed_utc).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(study.name, study.dataset or MISSING, study.state, trials, best, changed)
    return table


def datasets_table() -> FittingTable:
    """Return the data sets with size, shape, classes and place on this machine."""
    table = FittingTable("data set")
    table.add_numbers("images", "test", "shape", "classes")
    table.add_words("on this machine")
    for name, place in list_datasets().items():
        dataset = CATALOG[name]
        shape = "×".join(map(str, dataset.input_shape))
        sizes = f"{dataset.train_size:,}", f"{dataset.test_size:,}"
        table.add_row(name, *sizes, shape, str(dataset.classes), place or "no; downloaded when used")
    return table


def spaces_table(workspace: Workspace) -> FittingTable:
    """Return the search spaces with their summaries and files, or why they are broken."""
    table = FittingTable("space", "summary and file")
    for name, path in find_spaces(workspace.search_spaces).items():
        try:
            summary = load_space(name, path.read_text(encoding="utf-8"), str(path)).summary
        except (UsageError, OSError, UnicodeDecodeError) as error:
            summary = f"broken: {error}"
        table.add_row(name, f"{summary}\n{path}")
    return table
