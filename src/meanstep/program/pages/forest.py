"""Rows of values with intervals about a line, drawn by the page itself. Knows no subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

from meanstep.program.pages.statistics import LEVEL, Change, holm
from meanstep.program.pages.verdicts import number


@dataclass(frozen=True)
class Row:
    """A positive value and its interval, by name; whether better, worse or open."""

    name: str
    value: float
    interval: tuple[float, float] | None
    state: str = "open"
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One row: its name, point and interval in percent of the width, what it says in words, and whether better, worse or open."""

    name: str
    x: float
    low: float
    high: float
    words: str
    state: str
    note: str = ""


@dataclass(frozen=True)
class Forest:
    """Rows, the place of the line in percent (no change, or a floor; None without one), and what lies on both sides of it."""

    bars: tuple[Bar, ...]
    none: float | None
    left: str
    right: str


def state(change: Change, *, less: bool = True) -> str:
    """Whether a ratio is better, worse or neither can be told; `less`: whether less is better."""
    lower, higher = change.inside(0.0, 1.0), change.inside(1.0, inf)
    return "open" if lower == higher else "better" if lower is less else "worse"


def states(changes: Sequence[Change], *, less: bool = True) -> list[str]:
    """The same of several, with Holm's correction over them: of many rows without any effect one in twenty would look decided."""
    adjusted = holm([change.p() for change in changes])
    told = zip(changes, adjusted, strict=True)
    return [state(change, less=less) if p is not None and p < LEVEL else "open" for change, p in told]


def forest(
    rows: Sequence[tuple[str, Change, str]], left: str, right: str, *, less: bool = True, known: Mapping[str, str] | None = None
) -> Forest | None:
    """Ratios by name, each with a note, about the line of no change; see `placed`.

    `known`: rows that another test has decided, by name.
    """
    rows = [(name, change, note) for name, change, note in rows if change.n]
    came = states([change for _, change, _ in rows], less=less)
    told = [
        Row(name, change.value, change.interval, (known or {}).get(name, of), note)
        for (name, change, note), of in zip(rows, came, strict=True)
    ]
    return placed(told, 1.0, left, right)


def placed(rows: Sequence[Row], line: float | None, left: str, right: str) -> Forest | None:
    """Positive values with intervals on one logarithmic scale about a line; None without any. A far wider interval leaves the drawing."""
    if not rows:
        return None
    values = [log(row.value) for row in rows]
    lines = [] if line is None else [log(line)]
    wide = max(max([*values, *lines]) - min([*values, *lines]), 0.1)
    ends = [log(x) if x > 0 else -inf for row in rows for x in row.interval or ()]
    seen = [*lines, *values, *(x for x in ends if min(values) - 2 * wide < x < max(values) + 2 * wide)]
    low, high = min(seen) - 0.08 * wide, max(seen) + 0.08 * wide

    def place(x: float) -> float:
        at = log(x) if x > 0 else -inf
        return round(100 * min(max((at - low) / (high - low), 0.0), 1.0), 2)

    bars = []
    for row in rows:
        edges = row.interval or (row.value, row.value)
        words = number(row.value) + (f" [{number(edges[0])}, {number(edges[1])}]" if row.interval else "")
        bars.append(Bar(row.name, place(row.value), place(edges[0]), place(edges[1]), words, row.state, row.note))
    return Forest(tuple(bars), None if line is None else place(line), left, right)
