"""Creates workspaces, and opens their storage."""

from collections.abc import Mapping
from pathlib import Path

from mloptimizer.config.settings_file import read_settings_file, render_settings_file
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import write_text
from mloptimizer.spaces.space_files import builtin_folder
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage


def open_workspace_storage(workspace: Workspace, assignments: Mapping[str, object]) -> object:
    """Return the Optuna storage that the settings name, for the dashboard.

    Raises:
        UsageError: it cannot be opened, or the workspace has no study yet.
    """
    settings = make_settings(assignments, "settings", read_settings_file(workspace.settings_file))
    if not settings.storage and not workspace.journal.is_file():
        raise UsageError(f"{workspace.journal}: no study yet. Start with: mloptimizer search digits --trials 12")
    return open_storage(settings.storage, workspace.journal)


def launch_init(folder: Path) -> tuple[list[Path], list[Path]]:
    """Make the folder a workspace; return the files written, and existing ones, which stay unchanged."""
    workspace = Workspace(folder)
    texts = {workspace.settings_file: render_settings_file()}
    for path in sorted(builtin_folder().glob("*.py")):
        texts[workspace.search_spaces / path.name] = path.read_text(encoding="utf-8")
    kept = [path for path in texts if path.exists()]
    written = [path for path in texts if path not in kept]
    for path in written:
        write_text(path, texts[path])
    return written, kept
