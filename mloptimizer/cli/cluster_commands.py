"""The commands about a cluster."""

import sys

import click

from mloptimizer.cli.terminal import show_table


@click.group()
def cluster() -> None:
    """Look at a Ray cluster."""


@cluster.command()
@click.option("--address", metavar="ADDRESS", default="auto", help="auto, local or HOST:PORT.  [default: auto]")
def doctor(address: str) -> None:
    """Check versions, ports, tokens, clocks, data sets and GPUs of every node."""
    from mloptimizer.app.machines import examine_cluster

    table, is_sound = examine_cluster(address)
    show_table(table)
    sys.exit(0 if is_sound else 1)
