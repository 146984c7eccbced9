"""Turns a command line into one call per command, and errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed; 2 a mistake in the command or its files; 130 stopped by Ctrl-C.
"""

import importlib
import io
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import click

import mloptimizer
from mloptimizer.core.errors import MloptimizerError, unknown_name
from mloptimizer.core.system_errors import file_error

COMMANDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Search": {
        "search": ("searching", "Search for the best model for a data set."),
        "pause": ("steering", "Let a running search release its GPUs and cores until `resume`."),
        "resume": ("steering", "Continue a study that was interrupted, stopped or paused."),
        "stop": ("steering", "Stop a running search cleanly; `resume` continues it."),
        "add-trials": ("steering", "Explore COUNT more models, even while a search runs."),
    },
    "Watch": {
        "studies": ("results", "List the studies with their state and best value."),
        "top": ("watching", "Show GPUs, slots and running trials, live."),
        "dashboard": ("outputs", "Show this workspace's studies in optuna-dashboard."),
    },
    "Results": {
        "show": ("results", "Show the results of a study or of one of its trials."),
        "trials": ("results", "Show a study's trials as a table."),
        "export": ("outputs", "Export the winner as a .keras file, with its facts as JSON."),
    },
    "Machine": {
        "hardware": ("results", "Show what the machine did: time, use, energy, CO2."),
        "diagnose": ("results", "Explain what slows trials down, and what to change."),
        "tune": ("measuring", "Find the fastest way to train on this machine."),
        "bench": ("measuring", "Measure what each optimization gains on this machine."),
        "doctor": ("setting_up", "Check Python, TensorFlow, GPUs, storage and disk."),
        "cluster": ("setting_up", "Check a Ray cluster."),
    },
    "Choices": {
        "datasets": ("workspace_commands", "List the data sets, and which are on this machine."),
        "spaces": ("workspace_commands", "List the search spaces."),
        "settings": ("workspace_commands", "Show the most useful settings, all of them, or one."),
        "init": ("setting_up", "Create a workspace with settings and search spaces to edit."),
    },
}
"""By heading, in order of use: each command's name, module, and first line of help.

A module is imported only when one of its commands is used, so `--help` loads none of them."""

_FIRST_STEPS = """\
mloptimizer finds the best Keras model for a data set. To begin:

  mloptimizer search digits --trials 12   a first search: small images, no download
  mloptimizer show                        what it found
  mloptimizer datasets                    other data sets
  mloptimizer --help                      all commands"""


class _Commands(click.Group):
    """Imports a command when it is used; for an unknown one it suggests the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        for commands in COMMANDS.values():
            if cmd_name in commands:
                module = importlib.import_module(f"mloptimizer.cli.{commands[cmd_name][0]}")
                command: click.Command = getattr(module, cmd_name.replace("-", "_"))
                return command
        raise unknown_name("mloptimizer", "command", cmd_name, self.list_commands(ctx))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:10}", line) for name, (_, line) in commands.items()])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  mloptimizer search digits --trials 12
  mloptimizer show
  mloptimizer export -o model

Exit codes: 0 done; 1 the run failed; 2 a mistake in the command or its files; 130 stopped by Ctrl-C.""",
)
@click.version_option(mloptimizer.__version__, prog_name="mloptimizer")
@click.pass_context
def commands(context: click.Context) -> None:
    """Find the best Keras model for a data set, on all the GPUs of this machine."""
    if context.invoked_subcommand is None:
        click.echo(_FIRST_STEPS)


def main() -> None:
    """Run the command; every error is one line on standard error."""
    if sys.getfilesystemencoding() != "utf-8" and hasattr(os, "execv") and os.environ.get("PYTHONUTF8") != "1":
        # Otherwise file names might not be valid text, which records cannot hold; the terminal keeps its encoding.
        os.environ.update(PYTHONUTF8="1", PYTHONIOENCODING=os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding != "utf-8"):
            stream.reconfigure(errors="backslashreplace")  # a file name may not be valid text
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        commands.main(prog_name="mloptimizer", standalone_mode=False)
    except MloptimizerError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except OSError as error:  # from a path that was only checked
        known = file_error(Path(str(error.filename or "mloptimizer")), error)
        _fail(str(known), known.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped.", 130)


def _fail(message: str, code: int) -> None:
    line = " ".join(["Error:", *message.splitlines()])
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)
    if sys.stderr.isatty():  # wrap between words only, so that commands can be copied
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    click.echo(line, err=True)
    sys.exit(code)
