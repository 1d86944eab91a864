"""Rows of evaluations as a table of the terminal. Computes nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from meanstep.program.evaluation.rows import Row
from meanstep.program.registry import METRICS

Shown = Callable[[Row], str]
Columns = list[tuple[str, Shown]]
"""Heads, and what stands below them for a row."""
WORDS = ("average", "sampler", "class shares")
"""Heads of columns of words."""
APART = {"labels": "class shares", "seed": "seed", "autoencoder": "autoencoder", "among": "among"}
"""What else rows of one table may differ in, and the head of its column; of a digest the first eight digits are enough."""


def table(rows: Sequence[Row], floor: Row | None, metrics: Sequence[str], distance: str, usual: str = "") -> Table:
    """One line a cell, the floor last; only the columns that were asked for. `usual`: the run's own sampler."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    place, numbers = places(rows, usual), columns(metrics, distance)
    for name, _ in (*place, *numbers):
        found.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        found.add_row(*line(row, place, numbers))
    if floor is not None:
        found.add_section()
        found.add_row(*floor_line(floor, place, numbers))
    return found


def line(row: Row, place: Columns, numbers: Columns) -> list[str]:
    """The cells of a row's line."""
    return [*(show(row) for _, show in place), *_values(row, numbers)]


def floor_line(floor: Row, place: Columns, numbers: Columns) -> list[str]:
    """The cells of the floor's line."""
    return ["", floor["data"].partition(":")[0], *[""] * (len(place) - 2), *_values(floor, numbers)]


def _values(row: Row, numbers: Columns) -> list[str]:
    return [show(row) for _, show in numbers] if row["values"] is not None else [f"none: {row['failed']}"]


def places(rows: Sequence[Row], usual: str = "") -> Columns:
    """Columns that say which cell it is, for any row; of `APART` those in which rows differ.

    The sampler is one of them if there are several, or another than the `usual` one.
    """
    found: Columns = [("seen", lambda row: f"{row['seen']:,}"), ("average", lambda row: row["average"])]
    if {row.get("sampler", usual) for row in rows} - {usual}:
        found.append(("sampler", lambda row: row.get("sampler", usual)))
    apart = [(head, _entry(name)) for name, head in APART.items() if len({row.get(name) for row in rows}) > 1]
    return [*found, ("steps", lambda row: str(row["steps"])), ("guidance", lambda row: f"{row['guidance']:g}"), *apart]


def _entry(name: str) -> Shown:
    return lambda row: "" if row.get(name) is None else str(row[name])[:8]


def columns(metrics: Collection[str], distance: str) -> Columns:
    """Columns of numbers, for a row with values; a metric that is not known here has none."""
    known = [column for metric in METRICS if metric in metrics for column in METRICS[metric].facts["columns"]]
    found: Columns = [(column["title"].format(distance=distance), _shown(column)) for column in known]
    return [*found, ("count", lambda row: f"{row['values']['count']:,d}")]


def _shown(column: Mapping[str, Any]) -> Shown:
    name, form, scale = column["value"], column.get("form", ".3f"), column.get("scale", 1)

    def show(row: Row) -> str:
        values = row["values"]
        value = values.get(name)
        if value is None:
            return ""
        error = values.get(column.get("error"))
        if (high := values.get(column.get("high"))) is not None:
            error = high - value
        return f"{scale * value:{form}}" + ("" if error is None else f" ± {scale * error:.2g}")

    return show
