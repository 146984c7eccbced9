"""The commands that list what there is to choose from."""

from typing import Any

import click

from mloptimizer.cli.options import examples, settings_options, stated_settings, workspace_option, workspace_settings
from mloptimizer.cli.terminal import show_table
from mloptimizer.reports.terminal.listings import datasets_table, spaces_table
from mloptimizer.reports.terminal.settings_page import all_settings, common_settings, setting_page
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


@click.command(epilog=examples("mloptimizer settings", "mloptimizer settings batch_size --profile speed"))
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Show all settings, by group.")
@click.option("--profile", metavar="PROFILE", help="Show the values under this profile.")
@settings_options
def settings(workspace: Workspace, name: str | None, every: bool, **options: Any) -> None:
    """Show the most useful settings, all of them, or one."""
    now, stated = workspace_settings(workspace, options), stated_settings(workspace, options)
    if name is not None:
        show_table(setting_page(name, now, stated))
    else:
        show_table((all_settings if every else common_settings)(now, stated))
