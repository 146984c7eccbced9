"""A table that fits its terminal: it breaks no words or numbers, and drops its last columns instead."""

import copy

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

_LONGEST_WORD = 24  # of a text column; longer words, such as paths, are folded


class FittingTable(Table):
    """A rich table with a line below it that names the dropped columns."""

    def __init__(self, *titles: str, lined: bool = True, extras: int = 0) -> None:
        """Make the table.

        Args:
            titles: titles of text columns.
            lined: draw a line under the titles.
            extras: how many of the last columns are dropped without naming them.
        """
        super().__init__(box=box.SIMPLE_HEAD if lined else None, pad_edge=False, padding=(0, 1, 0, 0))
        self.header_style, self._extras = "table.header" if lined else "bold", extras
        self.add_words(*titles)

    def add_words(self, *titles: str) -> None:
        """Add columns of text, which is left-aligned and breaks between words."""
        for title in titles:
            self.add_column(title)

    def add_numbers(self, *titles: str) -> None:
        """Add columns of numbers, which are right-aligned and never break."""
        for title in titles:
            self.add_column(title, justify="right")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room, between = options.max_width, 2 if self.box else 1
        kept = list(self.columns)
        while len(kept) > 1 and sum(_narrowest(column) + between for column in kept) > room:
            kept.pop()
        widths = [max(map(cell_len, _lines(column))) for column in kept]
        while sum(widths) + between * len(kept) > room:
            spare = [width - _narrowest(column) for width, column in zip(widths, kept, strict=True)]
            if max(spare) <= 0:
                break
            widths[spare.index(max(spare))] -= 1
        table = copy.copy(self)
        table.columns = [copy.copy(column) for column in kept]
        for column, width in zip(table.columns, widths, strict=True):
            column.width, column.overflow = width, "fold"
        yield from Table.__rich_console__(table, console, options)
        dropped = self.columns[len(kept) : len(self.columns) - self._extras]
        if dropped:
            titles = (" ".join(str(column.header).split()) for column in dropped)
            yield Text(f"A wider terminal also shows: {', '.join(titles)}.", style="dim")


def _lines(column: Column) -> list[str]:
    return [line for cell in (column.header, *column.cells) for line in str(cell).split("\n")] or [""]


def _narrowest(column: Column) -> int:
    """Return the width below which a word or number would break."""
    title = max(map(cell_len, str(column.header).split()), default=0)
    cells = [str(cell) for cell in column.cells]
    if column.justify == "right":
        return max(title, *map(cell_len, cells), 0)
    return max(title, min(_LONGEST_WORD, max((cell_len(word) for cell in cells for word in cell.split()), default=0)))
