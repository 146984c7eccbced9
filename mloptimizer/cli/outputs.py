"""The commands that hand studies to other programs: the dashboard, and the winner as a Keras model."""

from pathlib import Path
from typing import Any

import click

from mloptimizer.app.exporting import launch_export
from mloptimizer.app.workspaces import open_workspace_storage
from mloptimizer.cli.chosen_study import choose_study
from mloptimizer.cli.options import (
    examples,
    set_option,
    stated_settings,
    storage_option,
    study_argument,
    workspace_option,
)
from mloptimizer.cli.terminal import open_console, say
from mloptimizer.reports.dashboard import serve_dashboard
from mloptimizer.store.workspace import Workspace


@click.command(epilog=examples("mloptimizer dashboard", "mloptimizer dashboard --port 0"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@storage_option
@set_option
@workspace_option
def dashboard(workspace: Workspace, host: str, port: int, **options: Any) -> None:
    """Show this workspace's studies in optuna-dashboard."""
    storage = open_workspace_storage(workspace, stated_settings(workspace, options))
    console = open_console()
    serve_dashboard(storage, host, port, lambda page: say(console, f"optuna-dashboard at {page}   (Ctrl-C ends it)"))


@click.command(epilog=examples("mloptimizer export -o model", "mloptimizer export digits --trial 7 -o model"))
@study_argument
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to write to.",
)
@click.option("--trial", type=click.IntRange(min=0), metavar="N", help="Another trial than the winner.")
@workspace_option
def export(workspace: Workspace, study: str | None, target: Path, trial: int | None) -> None:
    """Export the winner as a .keras file, with its facts as JSON."""
    facts = launch_export(workspace, choose_study(workspace, study), target, trial)
    say(
        open_console(),
        f"wrote {target}/model.keras (trial {facts['trial']}, {facts['phase']}), parameters.json, metrics.json",
    )
