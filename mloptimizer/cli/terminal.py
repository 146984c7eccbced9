"""Writes to the terminal: lines, tables and what the library logs."""

import logging

from rich.console import Console, RenderableType
from rich.logging import RichHandler


def open_console() -> Console:
    """Return the console of standard output."""
    return Console(markup=False)  # names and messages may hold brackets


def say(console: Console, line: str) -> None:
    """Print the line as it is; in a terminal that is too narrow, a command at its end goes to a line of its own."""
    words, found, command = line.partition(": mloptimizer ")
    if console.is_terminal and found and len(line) > console.width:
        console.print(f"{words}:", highlight=False)
        line = f"  mloptimizer {command}"
    console.print(line, highlight=False, soft_wrap=not console.is_terminal or line.startswith("  "))


def show_table(renderable: RenderableType) -> None:
    """Print a table or a report."""
    open_console().print(renderable)


def log_to(console: Console) -> None:
    """Show what the library says of its own progress, a download for instance, above a live display."""
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    logger = logging.getLogger("mloptimizer")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
