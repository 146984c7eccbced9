"""The commands that show and hand out what studies have learned."""

from pathlib import Path
from typing import Any

import click

from mloptimizer.cli.compare import compare_options, show_comparison, split_study_and_trial
from mloptimizer.cli.options import refuse_options, set_option, stated_settings, storage_option, workspace_option
from mloptimizer.cli.terminal import open_console, say, show_table


@click.command()
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
    from mloptimizer.core.files import write_text
    from mloptimizer.reports.model.standings import find_study
    from mloptimizer.reports.terminal.trial_table import trials_frame, trials_table
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    find_study(place, study)
    if csv:
        write_text(csv, trials_frame(place, study).to_csv(index=False))
        say(open_console(), f"wrote {csv}")
    else:
        show_table(trials_table(place, study, sort))


@click.command()
@click.argument("study")
@click.argument("trial", required=False, type=click.IntRange(min=0))
@workspace_option
def show(workspace: Path, study: str, trial: int | None) -> None:
    """Show what a study, or one of its trials, has learned."""
    from mloptimizer.reports.terminal.study_page import study_report
    from mloptimizer.reports.terminal.trial_page import trial_report
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    show_table(study_report(place, study) if trial is None else trial_report(place, study, trial))


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="STUDY [TRIAL] | --compare STUDY[@DIR]|FILE...")
@click.option("--compare", is_flag=True, help="Put studies and machine benchmarks side by side.")
@compare_options
@workspace_option
@click.pass_context
def hardware(context: click.Context, workspace: Path, words: tuple[str, ...], compare: bool, **options: Any) -> None:
    """Show what the machine did: time, use, energy, CO2."""
    from mloptimizer.reports.terminal.hardware_table import hardware_report
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    if compare:
        show_comparison(place, words, **options)
        return
    refuse_options(context, options, "needs --compare")
    study, trial = split_study_and_trial(context, words)
    show_table(hardware_report(place, study, trial))


@click.command()
@click.argument("study")
@click.argument("trial", required=False, type=click.IntRange(min=0))
@workspace_option
def diagnose(workspace: Path, study: str, trial: int | None) -> None:
    """Say what slows trials down, and what to change."""
    from mloptimizer.reports.terminal.diagnosis_page import diagnosis_report
    from mloptimizer.store.workspace import Workspace

    show_table(diagnosis_report(Workspace(workspace), study, trial))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@storage_option
@set_option
@workspace_option
def dashboard(workspace: Path, host: str, port: int, **options: Any) -> None:
    """Show this workspace's studies in optuna-dashboard."""
    from mloptimizer.app.launch import open_workspace_storage
    from mloptimizer.reports.dashboard import serve_dashboard
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    storage = open_workspace_storage(place, stated_settings(place, options))
    console = open_console()
    serve_dashboard(storage, host, port, lambda page: say(console, f"optuna-dashboard at {page}   (Ctrl-C ends it)"))


@click.command()
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
    from mloptimizer.app.exporting import launch_export
    from mloptimizer.store.workspace import Workspace

    facts = launch_export(Workspace(workspace), study, target, trial)
    say(
        open_console(),
        f"wrote {target}/model.keras (trial {facts['trial']}, {facts['phase']}), parameters.json, metrics.json",
    )
