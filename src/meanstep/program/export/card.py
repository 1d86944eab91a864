"""The card of an export in Markdown: what it is, how far from PyTorch, how it is used."""

from collections.abc import Sequence
from typing import Any

TEXT = """\
# {name}

{about}, exported by meanstep {meanstep} to {target}: {what}.

| | |
|---|---|
{rows}

{difference}

## How to use it

{use}"""
CODED = """
The values are the coded entries of a table. `columns` in card.json has the columns in order, with the number of their entries (`width`)
and the way that they became numbers. A column of the way `same` is as it was. One of `words` has an entry for each word, and the largest is
meant. One of `quantile` has the normal quantile of its rank; `points` are values of equally spaced ranks from 0 to 1.
"""


def card(record: dict[str, Any], use: str) -> str:
    """The text of README.md, of what card.json says."""
    hidden = {"meanstep", "name", "target", "difference", "files", "classes", "offered", "columns", "scales"}
    hidden |= {"guidance"} if "scales" in record else set()
    rows = [f"| {name} | {plain(value)} |" for name, value in record.items() if name not in hidden]
    rows += [f"| {name} | {few(record[name])} |" for name in ("classes", "offered") if record.get(name)]
    about = f"A generator of {record['data']}"
    low, high = record.get("scales") or (None, None)
    scale = f"guidance from {low:g} to {high:g}, an input" if low is not None else f"guidance {record['guidance']:g}"
    what = f"{record['steps']} step{'s' * (record['steps'] > 1)} of {record['sampler']}, {scale}"
    filled = {**record, "about": about, "what": what, "rows": "\n".join(rows)}
    return TEXT.format(**filled | {"difference": sentence(record["difference"]), "use": use + CODED * ("columns" in record)})


def sentence(difference: dict[str, Any]) -> str:
    """How far it is from PyTorch, in words."""
    found = f"{difference['largest']:.2g} of the spread of the samples (bound {difference['bound']:g})"
    text = f"On {difference['draws']} draws that it never saw, the largest difference to PyTorch in float32 is {found}"
    if (levels := difference.get("levels")) is not None:
        text += f"; {difference['bytes_that_differ']:,} bytes of the pictures differ{', each by one level' if levels else ''}"
    text += "."
    if (half := difference.get("half")) is not None:
        text += f" The weights are stored in half precision, which moves the samples by {half:.2g} of their spread."
    return text


def few(names: Sequence[str]) -> str:
    """The first of some names, and whether there are more."""
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")


def plain(value: Any) -> str:
    """A value of a card in a cell of a table."""
    if isinstance(value, list):
        return " x ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} = {part}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
