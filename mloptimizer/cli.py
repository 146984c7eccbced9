"""Turns the words of the command line into one call per command, and errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed; 2 the person's mistake; 130 stopped by Ctrl-C.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

import mloptimizer
from mloptimizer.errors import MloptimizerError, unknown_name
from mloptimizer.interrupts import stop_signals
from mloptimizer.terminal import log_to, open_console, say, show_table

Command = TypeVar("Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """A group that names the nearest command for one that does not exist."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise unknown_name("mloptimizer", "command", cmd_name, self.list_commands(ctx))
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mloptimizer.__version__, prog_name="mloptimizer")
def commands() -> None:
    """Find the best Keras model for a data set, on all the GPUs of this machine.

    Start with: mloptimizer search --dataset digits --trials 12
    """


def workspace_option(command: Command) -> Command:
    """Add --workspace DIR."""
    return click.option(
        "--workspace",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        metavar="DIR",
        help="Folder of the studies and settings.  [default: the current folder]",
    )(command)


def settings_options(command: Command) -> Command:
    """Add --storage URL and --set NAME=VALUE."""
    command = click.option("--storage", metavar="URL", help="Optuna storage; default: a journal in the workspace.")(
        command
    )
    return click.option(
        "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting; see `mloptimizer settings`."
    )(command)


@commands.command()
@click.option("--dataset", metavar="NAME", help="Data set; see `mloptimizer datasets`.")
@click.option("--trials", metavar="N", help="Models to explore, those of earlier runs included.  [default: 100]")
@click.option("--study", metavar="NAME", help="Name of a new study, or of one to continue.  [default: the data set's]")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Search space; may be repeated.  [default: all]")
@click.option("--seed", metavar="N", help="Makes a search with one worker repeatable.")
@click.option("--workers", metavar="N", help="Trials at a time.  [default: by GPUs or cores]")
@click.option("--explore-only", is_flag=True, help="Skip the long training of the best models.")
@settings_options
@workspace_option
def search(workspace: Path, explore_only: bool, dataset: str | None, study: str | None, **options: Any) -> None:
    """Search the best model for a data set."""
    from mloptimizer.display import command_to_continue, describe_summary, make_display, next_steps
    from mloptimizer.launch import SearchRequest, launch_search, prepare_search
    from mloptimizer.workspace import Workspace

    request = SearchRequest(Workspace(workspace), dataset, study, _assignments(options), explore_only)
    console = open_console()
    log_to(console)
    prepared = prepare_search(request)
    state = "continued" if prepared.continued else "new"
    say(console, f"Study '{prepared.name}' ({state}): data set {prepared.dataset}, seed {prepared.seed}")
    with stop_signals() as stop:
        try:
            with make_display(console, prepared.settings.objective) as display:
                summary = launch_search(request, prepared, display, stop.interruptible)
        except KeyboardInterrupt:
            again = command_to_continue(prepared.name, workspace, options["storage"], explore_only)
            say(console, f"\nStopped; everything so far is recorded. Continue with:\n  {again}")
            sys.exit(130)
    for line in describe_summary(summary):
        say(console, line)
    say(console, next_steps(prepared.name, workspace, options["storage"]))


def _assignments(options: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that the options state; the named options win over --set."""
    from mloptimizer.settings import make_settings
    from mloptimizer.settings_file import parse_assignments

    values: dict[str, object] = dict(parse_assignments(options["assignments"]))
    make_settings(values, "--set")
    for name in ("trials", "seed", "workers", "storage"):
        if options[name] is not None:
            make_settings({name: options[name]}, f"--{name}")
            values[name] = options[name]
    if options["spaces"]:
        values["spaces"] = ",".join(options["spaces"])
    return values


@commands.command()
@click.argument("study")
@click.option(
    "--sort", type=click.Choice(["number", "value"]), default="number", show_default=True, help="Order of rows."
)
@click.option(
    "--csv", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write all columns to a file."
)
@workspace_option
def trials(workspace: Path, study: str, sort: str, csv: Path | None) -> None:
    """Show a study's trials as a table."""
    from mloptimizer.files import write_text
    from mloptimizer.reports.standings import find_study
    from mloptimizer.reports.trials import trials_frame, trials_table
    from mloptimizer.workspace import Workspace

    place = Workspace(workspace)
    find_study(place, study)
    if csv:
        write_text(csv, trials_frame(place, study).to_csv(index=False))
        say(open_console(), f"wrote {csv}")
    else:
        show_table(trials_table(place, study, sort))


@commands.command()
@click.argument("study")
@click.argument("trial", required=False, type=click.IntRange(min=0))
@workspace_option
def show(workspace: Path, study: str, trial: int | None) -> None:
    """Show what a study, or one of its trials, has learned."""
    from mloptimizer.reports.study import study_report
    from mloptimizer.reports.trial import trial_report
    from mloptimizer.workspace import Workspace

    place = Workspace(workspace)
    show_table(study_report(place, study) if trial is None else trial_report(place, study, trial))


@commands.command()
@click.argument("study")
@click.argument("trial", required=False, type=click.IntRange(min=0))
@workspace_option
def hardware(workspace: Path, study: str, trial: int | None) -> None:
    """Show what the machine did: mean, peak, energy."""
    from mloptimizer.reports.hardware import hardware_report
    from mloptimizer.workspace import Workspace

    show_table(hardware_report(Workspace(workspace), study, trial))


@commands.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@settings_options
@workspace_option
def dashboard(workspace: Path, host: str, port: int, **options: Any) -> None:
    """Show this workspace's studies in optuna-dashboard."""
    from mloptimizer.dashboard import serve_dashboard
    from mloptimizer.launch import open_workspace_storage
    from mloptimizer.workspace import Workspace

    storage = open_workspace_storage(Workspace(workspace), _stated(options))
    console = open_console()
    serve_dashboard(storage, host, port, lambda page: say(console, f"optuna-dashboard at {page}   (Ctrl-C ends it)"))


@commands.command()
@click.argument("study")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.",
)
@click.option("--trial", type=click.IntRange(min=0), help="Another trial than the winner.")
@workspace_option
def export(workspace: Path, study: str, target: Path, trial: int | None) -> None:
    """Export the winner as a .keras file, with its parameters and metrics as JSON."""
    from mloptimizer.launch import launch_export
    from mloptimizer.workspace import Workspace

    facts = launch_export(Workspace(workspace), study, target, trial)
    say(
        open_console(),
        f"wrote {target}/model.keras (trial {facts['trial']}, {facts['phase']}), parameters.json, metrics.json",
    )


@commands.command()
def datasets() -> None:
    """List the data sets, and which are on this machine."""
    from mloptimizer.reports.listings import datasets_table

    show_table(datasets_table())


@commands.command()
@workspace_option
def spaces(workspace: Path) -> None:
    """List the search spaces."""
    from mloptimizer.reports.listings import spaces_table
    from mloptimizer.workspace import Workspace

    show_table(spaces_table(Workspace(workspace)))


@commands.command()
@settings_options
@workspace_option
def settings(workspace: Path, **options: Any) -> None:
    """List every setting with its value, its meaning and what is possible."""
    from mloptimizer.reports.listings import settings_table
    from mloptimizer.settings import make_settings
    from mloptimizer.settings_file import read_settings_file
    from mloptimizer.workspace import Workspace

    base = read_settings_file(Workspace(workspace).settings_file)
    show_table(settings_table(make_settings(_stated(options), "--set", base)))


@commands.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def init(folder: Path) -> None:
    """Make a workspace: system_parameters.py and search_spaces/ to edit."""
    from mloptimizer.launch import launch_init

    written, kept = launch_init(folder)
    console = open_console()
    for path in written:
        say(console, f"wrote {path}")
    for path in kept:
        say(console, f"kept  {path}, which was there")


@commands.command()
@settings_options
@workspace_option
def doctor(workspace: Path, **options: Any) -> None:
    """Check Python, TensorFlow, GPUs, storage and disk."""
    from mloptimizer.doctor import diagnose, doctor_table
    from mloptimizer.settings import make_settings
    from mloptimizer.settings_file import read_settings_file
    from mloptimizer.workspace import Workspace

    place = Workspace(workspace)
    checks = diagnose(place, make_settings(_stated(options), "--set", read_settings_file(place.settings_file)))
    show_table(doctor_table(checks))
    sys.exit(1 if any(check.ok is False for check in checks) else 0)


def _stated(options: Mapping[str, Any]) -> dict[str, object]:
    from mloptimizer.settings_file import parse_assignments

    values: dict[str, object] = dict(parse_assignments(options["assignments"]))
    return values if options["storage"] is None else {**values, "storage": options["storage"]}


def main() -> None:
    """Run the command; every error is one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        commands.main(standalone_mode=False)
    except MloptimizerError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped.", 130)


def _fail(message: str, code: int) -> None:
    click.echo("Error: " + " ".join(message.split("\n")), err=True)
    sys.exit(code)
