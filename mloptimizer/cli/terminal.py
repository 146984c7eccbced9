"""Writes to the terminal: lines, tables and the library's log messages."""

import contextlib
import logging
import select
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.logging import RichHandler


def open_console() -> Console:
    """Return the console of standard output."""
    return Console(markup=False)  # names and messages may hold brackets


def say(console: Console, line: str, style: str = "") -> None:
    """Print the line as it is; in a terminal that is too narrow, a command at its end gets a line of its own."""
    words, found, command = line.partition(": mloptimizer ")
    if console.is_terminal and found and len(line) > console.width:
        console.print(f"{words}:", style=style, highlight=False)
        line = f"  mloptimizer {command}"
    console.print(line, style=style, highlight=False, soft_wrap=not console.is_terminal or line.startswith("  "))


def show_table(renderable: RenderableType) -> None:
    """Print a table or a report."""
    open_console().print(renderable)


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Read keys without Enter inside the block: the function waits up to these seconds for a key and returns it."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):  # Windows; no terminal to read from
        yield _no_key
        return

    def read(seconds: float) -> str:
        return (sys.stdin.read(1) or "q") if select.select([sys.stdin], [], [], seconds)[0] else ""

    tty.setcbreak(sys.stdin)
    try:
        yield read
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def log_to(console: Console) -> None:
    """Show the library's own progress messages, for example about a download, above a live display."""
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    logger = logging.getLogger("mloptimizer")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
