"""The commands that create a workspace, and that check this machine or the nodes of a cluster."""

import sys
from pathlib import Path
from typing import Any

import click

from mloptimizer.app.doctor import examine_machine
from mloptimizer.app.engine_choice import examine_cluster
from mloptimizer.app.workspaces import launch_init
from mloptimizer.cli.options import FOLDER, examples, settings_options, workspace_settings
from mloptimizer.cli.terminal import open_console, say, show_table
from mloptimizer.reports.terminal.doctor_table import cluster_table, doctor_table
from mloptimizer.store.workspace import Workspace


@click.command(epilog=examples("mloptimizer init images"))
@click.argument("folder", type=FOLDER, metavar="DIR")
def init(folder: Path) -> None:
    """Create a workspace with settings and search spaces to edit."""
    written, kept = launch_init(folder)
    console = open_console()
    for path in written:
        say(console, f"wrote {path}")
    for path in kept:
        say(console, f"kept  {path}, which already exists")


@click.command(epilog=examples("mloptimizer doctor"))
@settings_options
def doctor(workspace: Workspace, **options: Any) -> None:
    """Check Python, TensorFlow, GPUs, storage and disk."""
    checks = examine_machine(workspace, workspace_settings(workspace, options))
    show_table(doctor_table(checks))
    sys.exit(1 if any(check.ok is False for check in checks) else 0)


@click.group(epilog=examples("mloptimizer cluster doctor --address HOST:6379"))
def cluster() -> None:
    """Check a Ray cluster."""


@cluster.command(
    "doctor", epilog=examples("mloptimizer cluster doctor", "mloptimizer cluster doctor --address HOST:6379")
)
@click.option("--address", metavar="ADDRESS", default="auto", help="auto, local or HOST:PORT.  [default: auto]")
def cluster_doctor(address: str) -> None:
    """Check every node: versions, ports, token, clock, data, GPUs."""
    nodes, checks = examine_cluster(address)
    show_table(cluster_table(nodes, checks))
    sys.exit(1 if any(check.ok is False for check in checks) else 0)
