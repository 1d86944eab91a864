"""What is known of a column of a table whose entries are parts of rows. Computes nothing, and needs neither torch nor NumPy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Way = Literal["same", "quantile", "words", "condition"]


@dataclass(frozen=True)
class Column:
    """One column: `way` says how it becomes numbers; of a `condition` none. `whole`: it holds whole numbers, and so do samples.

    `words`: the categories of `words`, an entry of the row each; `points`: the quantiles of `quantile`, equally spaced in probability.
    """

    name: str
    way: Way = "same"
    whole: bool = False
    words: tuple[str, ...] = ()
    points: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Entries of a row that it takes."""
        return {"words": len(self.words), "condition": 0}.get(self.way, 1)


def width(columns: Sequence[Column]) -> int:
    """Entries of a row of all of them."""
    return sum(column.width for column in columns)


def column(entry: Mapping[str, Any]) -> Column:
    """Of a manifest; `ValueError` or `TypeError` for what is none."""
    found = Column(**{**entry, "words": tuple(entry["words"]), "points": tuple(map(float, entry["points"]))})
    if not isinstance(found.name, str) or found.way not in ("same", "quantile", "words", "condition") or not isinstance(found.whole, bool):
        raise ValueError(f"there is no such column: {found.name!r:.40} {found.way!r:.40}")
    rising = all(map(math.isfinite, found.points)) and found.points == tuple(sorted(found.points)) and found.points
    lacking = not all(isinstance(word, str) for word in found.words) or (found.way == "words" and not found.words)
    if lacking or (found.way == "quantile" and not rising):
        raise ValueError(f"its column {found.name!r:.40} is not complete")
    return found
