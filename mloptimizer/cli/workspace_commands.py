"""The commands that list what there is to choose from."""

from typing import Any

import click

from mloptimizer.cli.options import (
    check_profile,
    examples,
    set_option,
    storage_option,
    workspace_option,
    workspace_settings,
)
from mloptimizer.cli.terminal import show_table
from mloptimizer.reports.terminal.listings import datasets_table, settings_table, spaces_table
from mloptimizer.store.workspace import Workspace


@click.command(epilog=examples("mloptimizer datasets"))
def datasets() -> None:
    """List the data sets, and which are on this machine."""
    show_table(datasets_table())


@click.command(epilog=examples("mloptimizer spaces"))
@workspace_option
def spaces(workspace: Workspace) -> None:
    """List the search spaces."""
    show_table(spaces_table(workspace))


@click.command(epilog=examples("mloptimizer settings", "mloptimizer settings --profile speed"))
@click.option("--profile", metavar="NAME", help="Show the settings under this profile, and mark what it changes.")
@storage_option
@set_option
@workspace_option
def settings(workspace: Workspace, profile: str | None, **options: Any) -> None:
    """List the settings with their values and what is possible."""
    if profile is not None:
        check_profile(profile)
    show_table(settings_table(workspace_settings(workspace, {**options, "profile": profile})))
