"""The command that searches, and the options that it shares with `resume`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mloptimizer.cli.options import Command, dataset_option, examples, set_option, storage_option, workspace_option

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--trials", metavar="N", help="Models to explore in all; +N: so many more.  [default: 100]"),
    click.option("--profile", metavar="NAME", help="Set of settings; see `mloptimizer settings --profile NAME`."),
    click.option("--workers", metavar="N", help="Trials at a time.  [default: by GPUs or cores]"),
    click.option(
        "--engine", metavar="NAME", help="process, thread (for breakpoints) or ray (a cluster).  [default: process]"
    ),
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


@click.command(
    epilog=examples("mloptimizer search digits --trials 12", "mloptimizer search cifar10 --max-hours 8 --space resnet")
)
@dataset_option
@click.option("--study", metavar="NAME", help="Name of a new study, or of one to continue.  [default: the data set's]")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Search space; may be repeated.  [default: all]")
@click.option("--seed", metavar="N", help="Makes a search with one worker repeatable.")
@search_options
def search(dataset: str | None, study: str | None, **options: Any) -> None:
    """Search for the best model for a data set."""
    start_search(dataset, study, options)


def start_search(dataset: str | None, study: str | None, options: dict[str, Any]) -> None:
    """Search, or continue, as the words of the command line say, and show how it goes."""
    from mloptimizer.cli.search_session import search_and_show  # loads Optuna, for which --help need not wait

    search_and_show(dataset, study, options)
