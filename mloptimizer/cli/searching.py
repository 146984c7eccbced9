"""The command that searches, and what it shares with `resume`."""

import functools
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mloptimizer.cli.chosen_study import command_line
from mloptimizer.cli.options import FILE, Command, dataset_option, examples, settings_options, stated_settings
from mloptimizer.cli.terminal import log_to, open_console, say
from mloptimizer.core.interrupts import stop_signals
from mloptimizer.core.secrets import hide_secrets

if TYPE_CHECKING:
    from mloptimizer.app.search_request import SearchRequest

_ENQUEUE = "Try the configurations in this JSON file first, such as parameters.json of an export."
_PROFILE_TRIAL = "Record how steps 10 to 20 of trial N spend their time, for TensorBoard."
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--trials", metavar="N", help="Models to explore in total; +N: N more.  [default: 100]"),
    click.option("--profile", metavar="NAME", help="Set of settings; see `mloptimizer settings --profile NAME`."),
    click.option("--workers", metavar="N", help="Trials at a time.  [default: by GPUs or cores]"),
    click.option(
        "--engine", metavar="NAME", help="process, thread (for breakpoints) or ray (a cluster).  [default: process]"
    ),
    click.option("--address", "ray_address", metavar="ADDRESS", help="Ray cluster: auto, local or HOST:PORT."),
    click.option("--max-hours", metavar="H", help="Stop this run after H hours."),
    click.option("--max-kwh", metavar="E", help="Stop this run after it has used E kWh of energy."),
    click.option(
        "--max-disk", "max_disk_mb", metavar="MB", help="Stop this run when the study takes this much disk space."
    ),
    click.option("--target", metavar="VALUE", help="Stop when a trial reaches this value of the objective."),
    click.option(
        "--stop-when-stagnant", metavar="N", help="End exploration after N trials in a row without improvement."
    ),
    click.option("--explore-only", is_flag=True, help="Do not train the best models further."),
    click.option("--warm-start", metavar="STUDY[@URL]", default="", help="Learn from the trials of an earlier study."),
    click.option("--enqueue", type=FILE, metavar="FILE", help=_ENQUEUE),
    click.option("--profile-trial", type=click.IntRange(min=0), metavar="N", help=_PROFILE_TRIAL),
    settings_options,
)


def search_options(command: Command) -> Command:
    """Add what `search` and `resume` have in common."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


@click.command(
    epilog=examples("mloptimizer search digits --trials 12", "mloptimizer search cifar10 --max-hours 8 --space resnet")
)
@dataset_option
@click.option("--study", metavar="NAME", help="Name of a study, new or to continue.  [default: the data set's name]")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Search space; may be repeated.  [default: all]")
@click.option("--seed", metavar="N", help="Makes a search with one worker repeatable.")
@search_options
def search(dataset: str | None, study: str | None, **options: Any) -> None:
    """Search for the best model for a data set."""
    start_search(dataset, study, options)


def start_search(dataset: str | None, study: str | None, options: dict[str, Any]) -> None:
    """Search, or resume, as the command line asks; show the progress and the result."""
    from mloptimizer.app import assembly  # these load Optuna, for which --help need not wait
    from mloptimizer.cli.display import describe_summary, make_display

    request = _make_request(dataset, study, options)
    console = open_console()
    log_to(console)
    with stop_signals() as stop:
        try:
            with make_display(console) as display:
                summary = assembly.run_request(request, listeners=(display,), interruptible=stop.interruptible)
        except KeyboardInterrupt:
            if display.began is None:
                raise
            again = command_line(request.workspace, "resume", display.began.study, *_options_to_repeat(options))
            say(console, f"\nStopped; everything so far is recorded. Continue with: {again}")
            sys.exit(130)
    for line in describe_summary(summary):
        say(console, line)
    profile = request.workspace.profile(summary.study, request.profile_trial or 0)
    if request.profile_trial is not None and profile.is_dir():
        say(console, f"Profile of trial {request.profile_trial}: tensorboard --logdir {profile}")
        say(console, "It needs: pip install tensorboard tensorboard-plugin-profile")
    if summary.stopped:
        again = command_line(request.workspace, "resume", summary.study, *_options_to_repeat(options))
        say(console, f"Continue with: {again}")
    elif summary.winner is not None:
        say(console, "Next:")
        for words in (("show", summary.study), ("export", summary.study, "-o", "DIR"), ("dashboard",)):
            say(console, f"  {command_line(request.workspace, *words)}")


def _options_to_repeat(options: dict[str, Any]) -> list[str]:
    """Return the options that the study does not record, without a password in the storage's URL."""
    storage = ["--storage", hide_secrets(options["storage"])] if options["storage"] else []
    return [*storage, *(["--explore-only"] if options["explore_only"] else [])]


def _make_request(dataset: str | None, study: str | None, options: dict[str, Any]) -> "SearchRequest":
    from mloptimizer.app.search_request import SearchRequest

    more = re.fullmatch(r"\+(\d{1,9})", options["trials"] or "")
    stated = stated_settings(options["workspace"], options | ({"trials": None} if more else {}))
    same = {name: options[name] for name in ("explore_only", "profile_trial", "warm_start", "enqueue")}
    more_trials = int(more.group(1)) if more else 0
    return SearchRequest(options["workspace"], dataset, study, stated, more_trials=more_trials, **same)
