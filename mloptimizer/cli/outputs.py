"""The commands that hand results to other programs: the dashboard, and the winner as a Keras model."""

from pathlib import Path
from typing import Any

import click

from mloptimizer.app.exporting import METRICS_FILE, PARAMETERS_FILE, launch_export
from mloptimizer.app.workspaces import open_workspace_storage
from mloptimizer.cli.chosen_study import choose_study
from mloptimizer.cli.options import (
    FOLDER,
    examples,
    settings_options,
    stated_settings,
    study_argument,
    workspace_option,
)
from mloptimizer.cli.terminal import open_console, say
from mloptimizer.reports.dashboard import serve_dashboard
from mloptimizer.store.workspace import Workspace


@click.command(epilog=examples("mloptimizer dashboard", "mloptimizer dashboard --port 0"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free port.")
@settings_options
def dashboard(workspace: Workspace, host: str, port: int, **options: Any) -> None:
    """Show this workspace's studies in optuna-dashboard."""
    storage = open_workspace_storage(workspace, stated_settings(workspace, options))
    console = open_console()
    serve_dashboard(storage, host, port, lambda page: say(console, f"optuna-dashboard at {page}   (Ctrl-C stops it)"))


@click.command(epilog=examples("mloptimizer export -o model", "mloptimizer export digits --trial 7 -o model"))
@study_argument
@click.option("-o", "--output", required=True, type=FOLDER, metavar="DIR", help="Folder to write to.")
@click.option("--trial", type=click.IntRange(min=0), metavar="N", help="Export this trial instead of the winner.")
@click.option("--force", is_flag=True, help="Overwrite another export in the folder.")
@workspace_option
def export(workspace: Workspace, study: str | None, output: Path, trial: int | None, force: bool) -> None:
    """Export the winner as a .keras file, with its facts as JSON.

    The folder may hold an earlier export of the same training; any other is overwritten only with --force.
    """
    about, console = launch_export(workspace, choose_study(workspace, study), output, trial, force), open_console()
    model = f"{output}/model.keras (trial {about['trial']}, {about['phase']})"
    say(console, f"wrote {model}, {PARAMETERS_FILE}, {METRICS_FILE}")
    shape, labels = ", ".join(map(str, about["export"]["input"]["shape"])), len(about["export"]["labels"])
    reached = f" {about['objective']} {about['value']:.4f}." if about["value"] is not None else ""
    say(console, f"It takes pixels from 0 to 255 as float32 ({shape}) and gives {labels} probabilities.{reached}")
