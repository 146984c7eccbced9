"""Turns the words of the command line into one call per command, and errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed; 2 the person's mistake; 130 stopped by Ctrl-C.
"""

import io
import logging
import sys
from pathlib import Path

import click

import mloptimizer
from mloptimizer.cli.cluster_commands import cluster
from mloptimizer.cli.measuring import bench, tune
from mloptimizer.cli.results import dashboard, diagnose, export, hardware, show, trials
from mloptimizer.cli.searching import search
from mloptimizer.cli.steering import add_trials, pause, resume, stop
from mloptimizer.cli.watching import top
from mloptimizer.cli.workspace_commands import datasets, doctor, init, settings, spaces
from mloptimizer.core.errors import MloptimizerError, unknown_name
from mloptimizer.core.system_errors import file_error


class _Commands(click.Group):
    """A group that names the nearest command for one that does not exist."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise unknown_name("mloptimizer", "command", cmd_name, self.list_commands(ctx))
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mloptimizer.__version__, prog_name="mloptimizer")
def commands() -> None:
    """Find the best Keras model for a data set, on all the GPUs of this machine.

    Start with: mloptimizer search --dataset digits --trials 12
    """


_COMMANDS = (
    *(search, resume, stop, pause, add_trials),
    *(trials, show, hardware, diagnose, top, dashboard, export),
    *(datasets, spaces, settings, init, doctor, cluster, tune, bench),
)
for _command in _COMMANDS:
    commands.add_command(_command)


def main() -> None:
    """Run the command; every error is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        commands.main(standalone_mode=False)
    except MloptimizerError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except OSError as error:  # of a path that was only looked at
        known = file_error(Path(str(error.filename or "mloptimizer")), error)
        _fail(str(known), known.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped.", 130)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.splitlines())
    click.echo("Error: " + "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line), err=True)
    sys.exit(code)
