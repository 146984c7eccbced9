"""The options and arguments that several commands share, and the settings that they give."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.config.settings_file import parse_assignments, read_settings_file
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.store.workspace import Workspace

Command = TypeVar("Command", bound=Callable[..., Any])

FILE, FOLDER = click.Path(dir_okay=False, path_type=Path), click.Path(file_okay=False, path_type=Path)

workspace_option = click.option(
    "--workspace",
    type=FOLDER,
    default=Path(),
    callback=lambda context, parameter, path: Workspace(path),
    metavar="DIR",
    help="Folder of the studies and settings.  [default: the current folder]",
)
storage_option = click.option("--storage", metavar="URL", help="Optuna storage; default: a journal in the workspace.")
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting; see `mloptimizer settings`."
)
study_argument = click.argument("study", required=False)
trial_argument = click.argument("trial", required=False, type=click.IntRange(min=0))


def settings_options(command: Command) -> Command:
    """Add what a command's settings depend on: --storage, --set and --workspace."""
    return storage_option(set_option(workspace_option(command)))


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def dataset_option(command: Command) -> Command:
    """Add the data set as an argument, or as --dataset."""

    def merge(context: click.Context, parameter: click.Parameter, named: str | None) -> str | None:
        argument = context.params.pop("data_set", None)
        if named and argument and named != argument:
            raise UsageError(f"--dataset {named}: the command also names the data set '{argument}'. Leave one out.")
        return named or argument

    help_line = "The same as DATASET; see `mloptimizer datasets`."
    command = click.option("--dataset", metavar="NAME", callback=merge, help=help_line)(command)
    # eager: click reads it before the option, whose callback needs it
    return click.argument("data_set", required=False, is_eager=True, metavar="[DATASET]")(command)


def refuse_options(context: click.Context, names: Iterable[str], reason: str) -> None:
    """Raise UsageError for the first of these options on the command line; the error is its name and the reason."""
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is click.ParameterSource.COMMANDLINE
        if given and parameter.name in names:
            raise UsageError(f"{parameter.opts[-1]}: {reason}.")


def stated_settings(workspace: Workspace, options: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings given by --set and by options named like a setting, which take precedence over --set.

    Raises:
        UsageError: an unknown name or an impossible value.
    """
    values: dict[str, object] = dict(parse_assignments(options["assignments"]))
    make_settings(values, "--set", read_settings_file(workspace.settings_file))
    profile = options.get("profile")
    if profile is not None and profile not in PROFILES:
        raise unknown_name("--profile", "profile", profile, PROFILES)
    for parameter in click.get_current_context().command.params:
        name, given = str(parameter.name), options.get(str(parameter.name))
        if name in Settings.model_fields and given not in (None, ()):
            values[name] = ",".join(given) if isinstance(given, tuple) else given  # --space may be repeated
            make_settings({name: values[name]}, parameter.opts[0])
    return values


def workspace_settings(workspace: Workspace, options: Mapping[str, Any]) -> Settings:
    """Return the settings of the workspace's file, with those that the options give; raises as `stated_settings`."""
    return make_settings(stated_settings(workspace, options), "--set", read_settings_file(workspace.settings_file))
