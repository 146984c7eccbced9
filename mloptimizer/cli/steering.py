"""The commands that steer a search from another terminal, and the one that continues a study."""

import time
from typing import Any

import click

from mloptimizer.cli.chosen_study import choose_running, choose_study, command_line
from mloptimizer.cli.options import examples, refuse_options, study_argument, workspace_option
from mloptimizer.cli.searching import search_options, start_search
from mloptimizer.cli.terminal import open_console, say
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.locks import hold_lock
from mloptimizer.reports.model.standings import is_search_running, list_recorded_studies
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.orders import Order, OrderName, send_order
from mloptimizer.store.workspace import Workspace

_TAKEN_SECONDS = 60.0  # a search checks for orders about twice a second, but not while its disk is full
_POLL_SECONDS = 0.1


@click.command(epilog=examples("mloptimizer stop", "mloptimizer stop digits"))
@study_argument
@workspace_option
def stop(workspace: Workspace, study: str | None) -> None:
    """Stop a running search cleanly; `resume` continues it."""
    study = choose_running(workspace, study)
    _send(workspace, study, Order(OrderName.STOP))
    while is_search_running(workspace, study):
        time.sleep(_POLL_SECONDS)
    say(open_console(), f"The search of '{study}' has ended. Continue with: {command_line(workspace, 'resume', study)}")


@click.command(epilog=examples("mloptimizer pause", "mloptimizer pause digits"))
@study_argument
@workspace_option
def pause(workspace: Workspace, study: str | None) -> None:
    """Let a running search release its GPUs and cores until `resume`."""
    study = choose_running(workspace, study)
    _send(workspace, study, Order(OrderName.PAUSE))
    say(open_console(), f"The search of '{study}' pauses. Continue with: {command_line(workspace, 'resume', study)}")


@click.command("add-trials", epilog=examples("mloptimizer add-trials 20", "mloptimizer add-trials digits 20"))
@click.argument("words", nargs=-1, required=True, metavar="[STUDY] COUNT")
@workspace_option
@click.pass_context
def add_trials(context: click.Context, workspace: Workspace, words: tuple[str, ...]) -> None:
    """Explore COUNT more models, even while a search runs."""
    if len(words) > 2:
        raise click.UsageError(f"Got unexpected extra argument ({words[2]})", context)
    count = click.IntRange(1, 10**9)(words[-1], click.Argument(["count"]), context)
    study = choose_running(workspace, words[0] if len(words) > 1 else None)
    console = open_console()
    if is_search_running(workspace, study):
        _send(workspace, study, Order(OrderName.ADD_TRIALS, count))
        say(console, f"The search of '{study}' will explore {count} more.")
        return
    store = MetricsStore(workspace, study)
    busy = f"study '{study}': its search has just started. Run the command again."
    with hold_lock(workspace.driver_lock(study), busy):
        total = store.planned_trials() + count
        store.remember_trials(total)
    say(
        console,
        f"Study '{study}' will explore {total} models. Continue with: {command_line(workspace, 'resume', study)}",
    )


@click.command(epilog=examples("mloptimizer resume", "mloptimizer resume digits --trials +20"))
@study_argument
@search_options
@click.pass_context
def resume(context: click.Context, workspace: Workspace, study: str | None, **options: Any) -> None:
    """Continue a study that was interrupted, stopped or paused."""
    running = [name for name in list_recorded_studies(workspace) if is_search_running(workspace, name)]
    study = (choose_running if len(running) == 1 else choose_study)(workspace, study)
    if study not in running:
        start_search(None, study, options | {"workspace": workspace, "spaces": (), "seed": None})
        return
    running_search = f"applies when a search starts, and the search of '{study}' is already running"
    possible = f"mloptimizer add-trials {study} N, or mloptimizer stop {study} and resume then"
    refuse_options(context, options, f"{running_search}. Possible: {possible}")
    _send(workspace, study, Order(OrderName.RESUME))
    say(open_console(), f"The search of '{study}' continues.")


def _send(workspace: Workspace, study: str, order: Order) -> None:
    """Send the order to the running search, and wait until it takes it.

    Raises:
        UsageError: no search of the study is running.
        RunError: the search does not take the order.
    """
    if not is_search_running(workspace, study):
        again = command_line(workspace, "resume", study)
        raise UsageError(f"study '{study}': no search of it is running. Continue with: {again}")
    path, deadline = send_order(workspace.orders(study), order), time.monotonic() + _TAKEN_SECONDS
    while path.exists():
        runs = is_search_running(workspace, study)
        if not runs or time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            silent = "does not take the order. Is its disk full? See its terminal"
            raise RunError(f"study '{study}': its search {silent if runs else 'ended before it took the order'}.")
        time.sleep(_POLL_SECONDS)
