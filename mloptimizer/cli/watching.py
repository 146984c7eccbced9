"""The command that shows what this machine and its searches are doing now."""

import contextlib
import threading

import click

from mloptimizer.cli.options import examples, workspace_option
from mloptimizer.cli.terminal import keys, open_console, say
from mloptimizer.core.errors import UsageError
from mloptimizer.core.interrupts import stop_signals
from mloptimizer.hardware.read.live import LiveMachine
from mloptimizer.reports.prometheus import serve_metrics
from mloptimizer.reports.terminal.top import show_live, take_snapshot, top_view
from mloptimizer.store.workspace import Workspace

_ONCE_SECONDS = 0.5  # over which a single view measures CPU use
_PROMETHEUS_HELP = "Serve the same metrics to Prometheus; 0: any free port. Needs no terminal."


@click.command(epilog=examples("mloptimizer top", "mloptimizer top --once", "mloptimizer top --prometheus 9400"))
@click.option("--once", is_flag=True, help="Show one view and exit; the default without a terminal.")
@click.option("--seconds", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, help="Between readings.")
@click.option("--prometheus", "port", type=click.IntRange(0, 65535), metavar="PORT", help=_PROMETHEUS_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that --prometheus listens on.")
@workspace_option
def top(workspace: Workspace, once: bool, seconds: float, port: int | None, host: str) -> None:
    """Show GPUs, slots and running trials, live."""
    if once and port is not None:
        raise UsageError("--once: shows one view and exits, so it cannot serve. Leave it or --prometheus out.")
    with stop_signals(), contextlib.suppress(KeyboardInterrupt):
        if port is None:
            _show(workspace, seconds, once, "q or Ctrl-C exits")
        else:
            _serve(workspace, seconds, port, host)


def _serve(workspace: Workspace, seconds: float, port: int, host: str) -> None:
    """Serve the metrics, and show the view too if there is a terminal."""
    with serve_metrics(lambda machine: take_snapshot(workspace, machine), host, port) as address:
        console = open_console()
        if console.is_terminal:
            _show(workspace, seconds, False, f"Prometheus: {address}   q or Ctrl-C exits")
            return
        say(console, f"metrics at {address}   (Ctrl-C stops it)")
        threading.Event().wait()


def _show(workspace: Workspace, seconds: float, once: bool, footer: str) -> None:
    console = open_console()
    with contextlib.closing(LiveMachine()) as machine:
        if once or not console.is_terminal:
            threading.Event().wait(_ONCE_SECONDS)
            console.print(top_view(take_snapshot(workspace, machine)))
        else:
            with keys() as read_key:
                waits = lambda: read_key(seconds) not in ("q", "Q")  # noqa: E731
                show_live(console, lambda: take_snapshot(workspace, machine), waits, footer)
