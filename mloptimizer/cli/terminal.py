"""Writes to the terminal; rich is imported at the first word, so that `--help` does not wait for it."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def open_console() -> "Console":
    """Return the console of standard output."""
    from rich.console import Console

    return Console(markup=False)  # names and messages may hold brackets


def say(console: "Console", line: str) -> None:
    """Print the line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(renderable: "RenderableType") -> None:
    """Print a table or a report."""
    open_console().print(renderable)


def log_to(console: "Console") -> None:
    """Show what the library says of its own progress, a download for instance, above a live display."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    logger = logging.getLogger("mloptimizer")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
