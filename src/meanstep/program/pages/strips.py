"""Where the rows of a claim lie on a line, for the small drawing beside its verdict. Knows no records and no page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite, log

from meanstep.program.pages.verdicts import Claim, Row, with_interval

LEFT, RIGHT, STEP, TOP = 345.0, 740.0, 23.0, 14.0


@dataclass(frozen=True)
class Mark:
    """One row of a strip: its words, its height, point and interval in units of the drawing, and the finding."""

    where: str
    y: float
    x: float
    low: float
    high: float
    words: str
    finding: str


@dataclass(frozen=True)
class Band:
    """A claimed range, and the heights of the rows that it is claimed of."""

    low: float
    high: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Strip:
    """Marks, the place of "no change" (None if it has none), the claimed ranges, and the height of the drawing."""

    marks: tuple[Mark, ...]
    none: float | None
    claimed: tuple[Band, ...]
    height: float


def strip(claim: Claim) -> Strip | None:
    """The judged rows of a claim on one scale, logarithmic for ratios; None if nothing was judged."""
    rows = [row for row in claim.rows if row.claimed is not None and row.change.n]
    if not rows or any(row.change.value <= 0 for row in rows if row.change.logs):
        return None
    place = _scale(rows)
    marks = tuple(_mark(row, TOP + STEP * i, place) for i, row in enumerate(rows))
    none = place(1.0 if rows[0].change.logs else 0.0) if rows[0].against_none else None
    return Strip(marks, none, tuple(_bands(rows, place)), 2 * TOP + STEP * (len(rows) - 1))


def _bands(rows: Sequence[Row], place: Callable[[float], float]) -> Iterator[Band]:
    """One for all neighbours of one range."""
    edges = [0.0, *(TOP + STEP * (k - 0.5) for k in range(1, len(rows))), 2 * TOP + STEP * (len(rows) - 1)]
    for (low, high), some in groupby(range(len(rows)), lambda k: rows[k].claimed or (-inf, inf)):
        each = [*some]
        yield Band(place(low), place(high), edges[each[0]], edges[each[-1] + 1])


def _mark(row: Row, y: float, place: Callable[[float], float]) -> Mark:
    x = place(row.change.value)
    low, high = map(place, row.change.interval) if row.change.interval else (x, x)
    return Mark(row.where, y, x, low, high, with_interval(row.change), row.finding)


def _scale(rows: list[Row]) -> Callable[[float], float]:
    """From values to places; an interval that is far wider than the values differ leaves the drawing."""
    logs = rows[0].change.logs
    to = (lambda x: log(x) if x > 0 else -inf) if logs else float
    edges = [to(edge) for row in rows for edge in row.claimed or () if isfinite(to(edge))]
    seen = [*edges, *(to(row.change.value) for row in rows), to(1.0) if logs else 0.0]
    ends = [to(end) for row in rows for end in row.change.interval or ()]
    wide = max(max(seen) - min(seen), 0.1)
    near = [*seen, *(x for x in ends if min(seen) - wide < x < max(seen) + wide)]
    low, high = min(near) - 0.06 * wide, max(near) + 0.06 * wide
    return lambda x: LEFT + (RIGHT - LEFT) * min(max((to(x) - low) / (high - low), 0.0), 1.0)
