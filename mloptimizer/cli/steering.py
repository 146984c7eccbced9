"""The commands that steer a search from another terminal, and that continue one."""

import time
from typing import Any

import click

from mloptimizer.cli.chosen_study import choose_running, choose_study, resume_command
from mloptimizer.cli.options import examples, study_argument, workspace_option
from mloptimizer.cli.searching import search_options, start_search
from mloptimizer.cli.terminal import open_console, say
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.reports.model.standings import is_search_running, list_recorded_studies
from mloptimizer.store.orders import Order, OrderName, send_order
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace

_TAKEN_SECONDS = 60.0  # a search looks for orders about twice a second, but not while its disk is full
_POLL_SECONDS = 0.1


@click.command(epilog=examples("mloptimizer stop", "mloptimizer stop digits"))
@study_argument
@workspace_option
def stop(workspace: Workspace, study: str | None) -> None:
    """End a running search in an orderly way; `resume` continues it."""
    study = choose_running(workspace, study)
    _tell(workspace, study, Order(OrderName.STOP))
    while is_search_running(workspace, study):
        time.sleep(_POLL_SECONDS)
    say(open_console(), f"The search of '{study}' has ended. Continue with: {resume_command(study, workspace)}")


@click.command(epilog=examples("mloptimizer pause", "mloptimizer pause digits"))
@study_argument
@workspace_option
def pause(workspace: Workspace, study: str | None) -> None:
    """Let a running search give up its GPUs and cores, until `resume`."""
    study = choose_running(workspace, study)
    _tell(workspace, study, Order(OrderName.PAUSE))
    say(open_console(), f"The search of '{study}' pauses. Continue with: {resume_command(study, workspace)}")


@click.command("add-trials", epilog=examples("mloptimizer add-trials 20", "mloptimizer add-trials digits 20"))
@click.argument("words", nargs=-1, required=True, metavar="[STUDY] COUNT")
@workspace_option
@click.pass_context
def add_trials(context: click.Context, workspace: Workspace, words: tuple[str, ...]) -> None:
    """Explore COUNT more models, also while a search runs."""
    if len(words) > 2:
        raise click.UsageError(f"Got unexpected extra argument ({words[2]})", context)
    try:
        count = click.IntRange(1, 10**9)(words[-1], ctx=context)
    except click.BadParameter as error:
        error.param_hint = "'COUNT'"
        raise
    study = choose_running(workspace, words[0] if len(words) > 1 else None)
    console = open_console()
    if is_search_running(workspace, study):
        _tell(workspace, study, Order(OrderName.ADD_TRIALS, count))
        say(console, f"The search of '{study}' explores {count} more.")
        return
    store = MetricsStore(workspace, study)
    busy = f"study '{study}': a search of it has just begun. Run the command again."
    with hold_lock(workspace.driver_lock(study), busy):
        total = store.planned_trials() + count
        store.remember_trials(total)
    say(console, f"Study '{study}' is to explore {total} models. Continue with: {resume_command(study, workspace)}")


@click.command(epilog=examples("mloptimizer resume", "mloptimizer resume digits --trials +20"))
@study_argument
@search_options
@click.pass_context
def resume(context: click.Context, workspace: Workspace, study: str | None, **options: Any) -> None:
    """Continue a study that was cut off, stopped or paused."""
    running = [name for name in list_recorded_studies(workspace) if is_search_running(workspace, name)]
    study = (choose_running if len(running) == 1 else choose_study)(workspace, study)
    if study not in running:
        start_search(None, study, options | {"workspace": workspace, "spaces": (), "seed": None})
        return
    if option := _first_option(context):
        raise UsageError(
            f"{option}: counts when a search begins, and study '{study}' is being searched. "
            f"Possible: mloptimizer add-trials {study} N, or mloptimizer stop {study}, and resume then."
        )
    _tell(workspace, study, Order(OrderName.GO_ON))
    say(open_console(), f"The search of '{study}' goes on.")


def _first_option(context: click.Context) -> str:
    """Return the first option that the person has given beside the place, or empty text."""
    for parameter in context.command.params:
        stated = context.get_parameter_source(str(parameter.name)) is click.ParameterSource.COMMANDLINE
        if stated and parameter.name not in ("study", "workspace"):
            return parameter.opts[0]
    return ""


def _tell(workspace: Workspace, study: str, order: Order) -> None:
    """Give the order to the search that runs, and wait until it was taken.

    Raises:
        UsageError: nobody searches the study.
        RunError: the search does not take it.
    """
    if not is_search_running(workspace, study):
        again = resume_command(study, workspace)
        raise UsageError(f"study '{study}': no search of it is running. Continue with: {again}")
    path, deadline = send_order(workspace.orders(study), order), time.monotonic() + _TAKEN_SECONDS
    while path.exists():
        runs = is_search_running(workspace, study)
        if not runs or time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            reason = (
                "does not take the order. Is its disk full? See its terminal"
                if runs
                else "ended before it took the order"
            )
            raise RunError(f"study '{study}': its search {reason}.")
        time.sleep(_POLL_SECONDS)
