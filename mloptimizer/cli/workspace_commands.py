"""The commands that say what there is to choose from, make a workspace and check the machine."""

import sys
from pathlib import Path
from typing import Any

import click

from mloptimizer.cli.options import check_profile, set_option, storage_option, workspace_option, workspace_settings
from mloptimizer.cli.terminal import open_console, say, show_table


@click.command()
def datasets() -> None:
    """List the data sets, and which are on this machine."""
    from mloptimizer.reports.terminal.listings import datasets_table

    show_table(datasets_table())


@click.command()
@workspace_option
def spaces(workspace: Path) -> None:
    """List the search spaces."""
    from mloptimizer.reports.terminal.listings import spaces_table
    from mloptimizer.store.workspace import Workspace

    show_table(spaces_table(Workspace(workspace)))


@click.command()
@click.option("--profile", metavar="NAME", help="Show the settings under this profile, and mark what it changes.")
@storage_option
@set_option
@workspace_option
def settings(workspace: Path, profile: str | None, **options: Any) -> None:
    """List every setting with its value, its meaning and what is possible."""
    from mloptimizer.reports.terminal.listings import settings_table
    from mloptimizer.store.workspace import Workspace

    if profile is not None:
        check_profile(profile)
    place = Workspace(workspace)
    show_table(settings_table(workspace_settings(place, {**options, "profile": profile})))


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def init(folder: Path) -> None:
    """Make a workspace: system_parameters.py and search_spaces/ to edit."""
    from mloptimizer.app.launch import launch_init

    written, kept = launch_init(folder)
    console = open_console()
    for path in written:
        say(console, f"wrote {path}")
    for path in kept:
        say(console, f"kept  {path}, which was there")


@click.command()
@storage_option
@set_option
@workspace_option
def doctor(workspace: Path, **options: Any) -> None:
    """Check Python, TensorFlow, GPUs, storage and disk."""
    from mloptimizer.app.doctor import diagnose
    from mloptimizer.reports.terminal.doctor_table import doctor_table
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    checks = diagnose(place, workspace_settings(place, options))
    show_table(doctor_table(checks))
    sys.exit(1 if any(check.ok is False for check in checks) else 0)
