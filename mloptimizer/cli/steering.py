"""The commands that steer a search from another terminal, and that continue one."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mloptimizer.cli.options import workspace_option
from mloptimizer.cli.searching import run_search, search_options
from mloptimizer.cli.terminal import open_console, say

if TYPE_CHECKING:
    from mloptimizer.store.orders import Order
    from mloptimizer.store.workspace import Workspace

_TAKEN_SECONDS = 60.0  # a search looks for orders about twice a second, but not while its disk is full
_POLL_SECONDS = 0.1


@click.command()
@click.argument("study")
@workspace_option
def stop(workspace: Path, study: str) -> None:
    """End a running search in an orderly way; `resume` continues it."""
    from mloptimizer.reports.model.standings import is_search_running
    from mloptimizer.store.orders import Order, OrderName
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    _tell(place, study, Order(OrderName.STOP))
    while is_search_running(place, study):
        time.sleep(_POLL_SECONDS)
    say(open_console(), f"The search of '{study}' has ended. Continue it with: {_resume_command(place, study)}")


@click.command()
@click.argument("study")
@workspace_option
def pause(workspace: Path, study: str) -> None:
    """Let a running search give its GPUs and cores free, until `resume`."""
    from mloptimizer.store.orders import Order, OrderName
    from mloptimizer.store.workspace import Workspace

    place = Workspace(workspace)
    _tell(place, study, Order(OrderName.PAUSE))
    say(open_console(), f"The search of '{study}' pauses. Let it go on with: {_resume_command(place, study)}")


@click.command("add-trials")
@click.argument("study")
@click.argument("count", type=click.IntRange(1, 10**9))
@workspace_option
def add_trials(workspace: Path, study: str, count: int) -> None:
    """Let a study explore COUNT more models, also while it is searched."""
    from mloptimizer.core.locks import hold_lock
    from mloptimizer.reports.model.standings import find_study, is_search_running
    from mloptimizer.store.orders import Order, OrderName
    from mloptimizer.store.trial_records import MetricsStore
    from mloptimizer.store.workspace import Workspace

    place, console = Workspace(workspace), open_console()
    find_study(place, study)
    if is_search_running(place, study):
        _tell(place, study, Order(OrderName.ADD_TRIALS, count))
        say(console, f"The search of '{study}' explores {count} more.")
        return
    store = MetricsStore(place, study)
    with hold_lock(place.driver_lock(study), f"study '{study}': a search of it has just begun. Run the command again."):
        total = store.planned_trials() + count
        store.remember_trials(total)
    say(console, f"Study '{study}' is to explore {total} models. Continue it with: {_resume_command(place, study)}")


@click.command()
@click.argument("study")
@search_options
@click.pass_context
def resume(context: click.Context, study: str, **options: Any) -> None:
    """Continue a study that was cut off, stopped or paused."""
    from mloptimizer.core.errors import UsageError
    from mloptimizer.reports.model.standings import find_study, is_search_running
    from mloptimizer.store.orders import Order, OrderName
    from mloptimizer.store.workspace import Workspace

    place = Workspace(options["workspace"])
    find_study(place, study)
    if not is_search_running(place, study):
        run_search(None, study, options | {"spaces": (), "seed": None})
        return
    if option := _first_option(context):
        raise UsageError(
            f"{option}: counts when a search begins, and study '{study}' is being searched. "
            f"Possible: mloptimizer add-trials {study} N, or mloptimizer stop {study}, and resume then."
        )
    _tell(place, study, Order(OrderName.GO_ON))
    say(open_console(), f"The search of '{study}' goes on.")


def _first_option(context: click.Context) -> str:
    """Return the first option that the person has given beside the place, or empty text."""
    from click.core import ParameterSource

    for parameter in context.command.params:
        stated = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if stated and parameter.name not in ("study", "workspace"):
            return parameter.opts[0]
    return ""


def _resume_command(place: "Workspace", study: str) -> str:
    words = ["mloptimizer", "resume", study]
    return shlex.join(words + (["--workspace", str(place.root)] if place.root != Path() else []))


def _tell(place: "Workspace", study: str, order: "Order") -> None:
    """Give the order to the search that runs, and wait until it was taken.

    Raises:
        UsageError: there is no such study, or nobody searches it.
        RunError: the search does not take it.
    """
    from mloptimizer.core.errors import RunError, UsageError
    from mloptimizer.reports.model.standings import find_study, is_search_running
    from mloptimizer.store.orders import send_order

    find_study(place, study)
    if not is_search_running(place, study):
        raise UsageError(f"study '{study}': nobody searches it now. Continue it with: {_resume_command(place, study)}")
    path, deadline = send_order(place.orders(study), order), time.monotonic() + _TAKEN_SECONDS
    while path.exists():
        runs = is_search_running(place, study)
        if not runs or time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            reason = (
                "does not take the order. Is its disk full? See its terminal"
                if runs
                else "ended before it took the order"
            )
            raise RunError(f"study '{study}': its search {reason}.")
        time.sleep(_POLL_SECONDS)
