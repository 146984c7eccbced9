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
    from mloptimizer.reports.terminal.doctor_table import cluster_table

    nodes, checks = examine_cluster(address)
    show_table(cluster_table(nodes, checks))
    sys.exit(1 if any(check.ok is False for check in checks) else 0)
