"""A table whose cells are text already: what pages and terminals show alike."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class TextTable:
    """A table as text; ``left``: columns that are words. ``dim``: rows that are there for orientation; ``sections``:
    rows that are headings of those below, words in the first cell alone.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...]
    dim: tuple[int, ...] = ()
    sections: tuple[int, ...] = ()


def rich_table(table: TextTable) -> Table:
    """For a terminal of 100 columns; the last column gives way."""
    made = Table(title=Text(table.title), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    last = len(table.headers) - 1
    for index, header in enumerate(table.headers):
        left = index in table.left
        made.add_column(header, justify="left" if left else "right", no_wrap=index < last, vertical="bottom")
    for index, row in enumerate(table.rows):
        if index in table.sections:
            made.add_section()
        style = "bold" if index in table.sections else "dim" if index in table.dim else None
        made.add_row(*map(Text, row), style=style)
    return made
