"""Tables that fit the terminal: as they are, or, where they would be wider, a line for each value. Knows nothing of what they hold."""

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def fitted(table: Table, console: Console) -> RenderableType:
    """The table if it fits the console uncut, else its rows one below the other, each value after its column's name."""
    options = console.options
    wide = Measurement.get(console, options.update(width=10_000), table)
    if wide.minimum <= console.width:
        return table
    heads = [_text(console, column.header) for column in table.columns]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    stacked: list[RenderableType] = [table.title] if table.title else []
    for row in rows:
        texts = [_text(console, cell) for cell in row]
        first = next((i for i, text in enumerate(texts) if text.plain), 0)
        name = Text.assemble((f"{heads[first].plain} " if first else "", "dim"), texts[first])
        stacked.append(name)
        for head, text in list(zip(heads, texts, strict=True))[first + 1 :]:
            if text.plain:
                stacked.append(Text.assemble("  ", (f"{head.plain} " if head.plain else "", "dim"), text))
    return Group(*stacked, Text())


def _text(console: Console, cell: RenderableType) -> Text:
    return cell.copy() if isinstance(cell, Text) else console.render_str(str(cell))
