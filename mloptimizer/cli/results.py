"""The commands that show the results of studies, and what the machine did meanwhile."""

from pathlib import Path
from typing import Any

import click

from mloptimizer.cli.chosen_study import choose_study, choose_trial
from mloptimizer.cli.compare import compare_options, show_comparison, split_study_and_trial
from mloptimizer.cli.options import FILE, examples, refuse_options, study_argument, trial_argument, workspace_option
from mloptimizer.cli.terminal import open_console, say, show_table
from mloptimizer.core.files import write_text
from mloptimizer.reports.model.studies import read_studies, studies_json
from mloptimizer.reports.terminal.diagnosis_page import diagnosis_report
from mloptimizer.reports.terminal.hardware_table import hardware_report
from mloptimizer.reports.terminal.listings import studies_table
from mloptimizer.reports.terminal.study_page import study_report
from mloptimizer.reports.terminal.trial_page import trial_report
from mloptimizer.reports.terminal.trials_table import trials_frame, trials_table
from mloptimizer.store.workspace import Workspace


@click.command(epilog=examples("mloptimizer studies", "mloptimizer studies --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workspace_option
def studies(workspace: Workspace, as_json: bool) -> None:
    """List the studies with their state and best value."""
    found = read_studies(workspace)
    if as_json:
        click.echo(studies_json(found))
    elif found:
        show_table(studies_table(found))
    else:
        say(open_console(), "There is no study here yet. Begin with: mloptimizer search digits --trials 12")


@click.command(epilog=examples("mloptimizer trials --sort value", "mloptimizer trials digits --csv trials.csv"))
@study_argument
@click.option("--sort", type=click.Choice(["number", "value"]), default="number", show_default=True, help="Row order.")
@click.option("--csv", type=FILE, metavar="FILE", help="Write all columns to a file.")
@workspace_option
def trials(workspace: Workspace, study: str | None, sort: str, csv: Path | None) -> None:
    """Show a study's trials as a table."""
    study = choose_study(workspace, study)
    if csv:
        write_text(csv, trials_frame(workspace, study).to_csv(index=False))
        say(open_console(), f"wrote {csv}")
    else:
        show_table(trials_table(workspace, study, sort))


@click.command(epilog=examples("mloptimizer show", "mloptimizer show digits 7"))
@study_argument
@trial_argument
@workspace_option
def show(workspace: Workspace, study: str | None, trial: int | None) -> None:
    """Show the results of a study or of one of its trials."""
    study, trial = choose_trial(workspace, study, trial)
    show_table(study_report(workspace, study) if trial is None else trial_report(workspace, study, trial))


@click.command(epilog=examples("mloptimizer hardware digits 7", "mloptimizer hardware --compare digits digits-2"))
@click.argument("words", nargs=-1, metavar="[STUDY [TRIAL]] | --compare STUDY[@DIR]|FILE...")
@click.option("--compare", is_flag=True, help="Put studies and machine benchmarks side by side.")
@compare_options
@workspace_option
@click.pass_context
def hardware(
    context: click.Context, workspace: Workspace, words: tuple[str, ...], compare: bool, **options: Any
) -> None:
    """Show what the machine did: time, use, energy, CO2."""
    if compare:
        show_comparison(workspace, words, **options)
        return
    refuse_options(context, options, "needs --compare")
    study, trial = choose_trial(workspace, *split_study_and_trial(context, words))
    show_table(hardware_report(workspace, study, trial))


@click.command(epilog=examples("mloptimizer diagnose", "mloptimizer diagnose digits 7"))
@study_argument
@trial_argument
@workspace_option
def diagnose(workspace: Workspace, study: str | None, trial: int | None) -> None:
    """Explain what slows trials down, and what to change."""
    show_table(diagnosis_report(workspace, *choose_trial(workspace, study, trial)))
