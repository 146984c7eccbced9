"""The command that searches."""

import sys
from pathlib import Path
from typing import Any

import click

from mloptimizer.commands.options import set_option, stated_settings, storage_option, workspace_option
from mloptimizer.interrupts import stop_signals
from mloptimizer.terminal import log_to, open_console, say


@click.command()
@click.option("--dataset", metavar="NAME", help="Data set; see `mloptimizer datasets`.")
@click.option("--trials", metavar="N", help="Models to explore, those of earlier runs included.  [default: 100]")
@click.option("--study", metavar="NAME", help="Name of a new study, or of one to continue.  [default: the data set's]")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Search space; may be repeated.  [default: all]")
@click.option("--profile", metavar="NAME", help="Set of settings; see `mloptimizer settings --profile NAME`.")
@click.option("--seed", metavar="N", help="Makes a search with one worker repeatable.")
@click.option("--workers", metavar="N", help="Trials at a time.  [default: by GPUs or cores]")
@click.option("--explore-only", is_flag=True, help="Skip the long training of the best models.")
@click.option(
    "--profile-trial",
    type=click.IntRange(min=0),
    metavar="N",
    help="Record what the steps 10 to 20 of trial N spend their time on, for TensorBoard.",
)
@storage_option
@set_option
@workspace_option
def search(workspace: Path, explore_only: bool, dataset: str | None, study: str | None, **options: Any) -> None:
    """Search the best model for a data set."""
    from mloptimizer.display import command_to_continue, describe_summary, make_display, next_steps
    from mloptimizer.launch import SearchRequest, launch_search, prepare_search
    from mloptimizer.workspace import Workspace

    place = Workspace(workspace)
    profiled = options["profile_trial"]
    request = SearchRequest(place, dataset, study, stated_settings(place, options), explore_only, profiled)
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
    if profiled is not None and place.profile(prepared.name, profiled).is_dir():
        say(console, f"Profile of trial {profiled}: tensorboard --logdir {place.profile(prepared.name, profiled)}")
        say(console, "It needs: pip install tensorboard tensorboard-plugin-profile")
    say(console, next_steps(prepared.name, workspace, options["storage"]))
