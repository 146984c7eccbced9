"""The commands that search, and continue a search."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mloptimizer.cli.options import Command, set_option, stated_settings, storage_option, workspace_option
from mloptimizer.cli.terminal import log_to, open_console, say
from mloptimizer.core.interrupts import stop_signals

if TYPE_CHECKING:
    from mloptimizer.app.preparation import SearchRequest

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--trials", metavar="N", help="Models to explore in all; +N: so many more.  [default: 100]"),
    click.option("--profile", metavar="NAME", help="Set of settings; see `mloptimizer settings --profile NAME`."),
    click.option("--workers", metavar="N", help="Trials at a time.  [default: by GPUs or cores]"),
    click.option("--engine", metavar="NAME", help="process: on this machine; ray: on a cluster.  [default: process]"),
    click.option("--address", "ray_address", metavar="ADDRESS", help="Ray cluster: auto, local or HOST:PORT."),
    click.option("--max-hours", metavar="H", help="Stop this run after so many hours."),
    click.option("--max-kwh", metavar="E", help="Stop this run when its GPUs have used so much energy, kWh."),
    click.option("--max-disk", "max_disk_mb", metavar="MB", help="Stop this run when the study takes so much space."),
    click.option("--target", metavar="VALUE", help="Stop when a trial reaches this value of the objective."),
    click.option("--stop-when-stagnant", metavar="N", help="End the exploration after N trials without a better one."),
    click.option("--explore-only", is_flag=True, help="Skip the long training of the best models."),
    click.option("--warm-start", metavar="STUDY[@URL]", default="", help="Learn from the trials of an earlier study."),
    click.option(
        "--enqueue",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Try the configurations in this JSON file first, such as parameters.json of an export.",
    ),
    click.option(
        "--profile-trial",
        type=click.IntRange(min=0),
        metavar="N",
        help="Record what the steps 10 to 20 of trial N spend their time on, for TensorBoard.",
    ),
    storage_option,
    set_option,
    workspace_option,
)


def search_options(command: Command) -> Command:
    """Add what `search` and `resume` have in common."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option("--dataset", metavar="NAME", help="Data set; see `mloptimizer datasets`.")
@click.option("--study", metavar="NAME", help="Name of a new study, or of one to continue.  [default: the data set's]")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Search space; may be repeated.  [default: all]")
@click.option("--seed", metavar="N", help="Makes a search with one worker repeatable.")
@search_options
def search(dataset: str | None, study: str | None, **options: Any) -> None:
    """Search the best model for a data set."""
    run_search(dataset, study, options)


def run_search(dataset: str | None, study: str | None, options: dict[str, Any]) -> None:
    """Search, or continue, as the words of the command line say, and show how it goes."""
    from mloptimizer.app.claims import claim_study
    from mloptimizer.app.launch import launch_search
    from mloptimizer.app.preparation import prepare_search
    from mloptimizer.cli.display import command_to_continue, describe_summary, make_display, next_steps

    workspace, storage, explore_only = options["workspace"], options["storage"], options["explore_only"]
    request = _make_request(dataset, study, options)
    console = open_console()
    log_to(console)
    prepared = prepare_search(request)
    with claim_study(request, prepared) as prepared:
        state = "continued" if prepared.continued else "new"
        say(console, f"Study '{prepared.name}' ({state}): data set {prepared.dataset}, seed {prepared.seed}")
        for note in prepared.notes:
            say(console, note)
        again = command_to_continue(prepared.name, workspace, storage, explore_only)
        with stop_signals() as stop:
            try:
                with make_display(console, prepared.settings.objective) as display:
                    summary = launch_search(request, prepared, display, stop.interruptible)
            except KeyboardInterrupt:
                say(console, f"\nStopped; everything so far is recorded. Continue with:\n  {again}")
                sys.exit(130)
    for line in describe_summary(summary):
        say(console, line)
    profile = request.workspace.profile(prepared.name, request.profile_trial or 0)
    if request.profile_trial is not None and profile.is_dir():
        say(console, f"Profile of trial {request.profile_trial}: tensorboard --logdir {profile}")
        say(console, "It needs: pip install tensorboard tensorboard-plugin-profile")
    if summary.stopped:
        say(console, f"Continue with:\n  {again}")
    if summary.winner is not None:
        say(console, next_steps(prepared.name, workspace, storage))


def _make_request(dataset: str | None, study: str | None, options: dict[str, Any]) -> "SearchRequest":
    from mloptimizer.app.preparation import SearchRequest
    from mloptimizer.store.workspace import Workspace

    place = Workspace(options["workspace"])
    more = re.fullmatch(r"\+(\d{1,9})", options["trials"] or "")
    if more:
        options = {**options, "trials": None}
    return SearchRequest(
        place,
        dataset,
        study,
        stated_settings(place, options),
        explore_only=options["explore_only"],
        profile_trial=options["profile_trial"],
        more_trials=int(more.group(1)) if more else 0,
        warm_start=options["warm_start"],
        enqueue=options["enqueue"],
    )
