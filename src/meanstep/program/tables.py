"""Tables that fit the terminal: as they are, or, where they would be wider, a paragraph for each row. Knows nothing of what they hold."""

import os

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

LEAST = 16
"""Characters that a column of words keeps, if it has so many; with fewer it would be read one word a line."""


def fits(table: Table, console: Console) -> bool:
    """Whether the table is no wider than the console with every value whole; its columns keep the room that they need."""
    for column in table.columns:
        lines = [line for cell in (column.header, *column.cells) for line in _text(console, cell).plain.splitlines()]
        natural = max(map(cell_len, lines), default=0)
        column.min_width = column.min_width or (natural if column.no_wrap else min(LEAST, natural))
    return Measurement.get(console, console.options.update(width=10_000), table).minimum <= console.width


def fitted(table: Table, console: Console) -> RenderableType:
    """The table if it fits the console, else its rows one below the other, each value after its column's name."""
    if fits(table, console):
        return table
    heads = [_text(console, column.header) for column in table.columns]
    shown: list[RenderableType] = [_text(console, table.title)] if table.title else []
    for row in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = [_named(head, text) for head, cell in zip(heads, row, strict=True) if (text := _text(console, cell)).plain]
        shown += [first, Padding(Text(", ").join(others), (0, 0, 0, 2))]
    return Group(*shown, Text())


def put(table: Table, console: Console) -> None:
    """Print a table: as it fits a terminal, and at its own width where nobody's window is written to, such as a file or a pipe."""
    if console.is_terminal or "COLUMNS" in os.environ:
        console.print(fitted(table, console))
    else:
        wide = Measurement.get(console, console.options.update(width=10_000), table).maximum
        Console(file=console.file, width=max(wide, console.width), highlight=False, quiet=console.quiet).print(table)


def _named(head: Text, text: Text) -> Text:
    return Text.assemble((f"{head.plain} ", "dim"), text) if head.plain else text


def _text(console: Console, cell: RenderableType) -> Text:
    text = cell.copy() if isinstance(cell, Text) else console.render_str(str(cell))
    return text[len(text.plain) - len(text.plain.lstrip()) :] if text.plain[:1].isspace() else text
