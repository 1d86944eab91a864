"""Rows of evaluations as a table of the terminal. Computes nothing."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from meanstep.program.evaluation.rows import Row

Shown = Callable[[Row], str]


def table(rows: Sequence[Row], floor: Row | None, metrics: Sequence[str], distance: str) -> Table:
    """One line a cell, the floor last; only the columns that were asked for."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown = columns(rows, metrics, distance)
    for name, _ in shown:
        found.add_column(name, justify="left" if name == "average" else "right")
    for row in rows:
        if row["values"] is None:
            found.add_row(*(show(row) for _, show in shown[:4]), f"none: {row['failed']}")
        else:
            found.add_row(*(show(row) for _, show in shown))
    if floor is not None:
        found.add_section()
        cells = [show(floor) for _, show in shown[4:]]
        found.add_row("", floor["data"].partition(":")[0], "", "", *cells)
    return found


def columns(rows: Sequence[Row], metrics: Sequence[str], distance: str) -> list[tuple[str, Shown]]:
    """Heads, and what stands below them for a row: the first four for any row, the others for one with values."""
    found: list[tuple[str, Shown]] = [
        ("seen", lambda row: f"{row['seen']:,}"),
        ("average", lambda row: row["average"]),
        ("steps", lambda row: str(row["steps"])),
        ("guidance", lambda row: f"{row['guidance']:g}"),
    ]
    if "frechet" in metrics:
        found.append((distance, _interval))
    if "kid" in metrics:
        found.append(("kernel x 1000", _kernel))
    for metric, names in (("precision-recall", ("precision", "recall")), ("density-coverage", ("density", "coverage"))):
        found += [(name, _number(name)) for name in names] if metric in metrics else []
    if "inception-score" in metrics:
        found.append(("Inception score", _number("inception_score")))
    return [*found, ("count", _number("count", ",d"))]


def _interval(row: Row) -> str:
    value = row["values"]["frechet"]
    if row["values"].get("frechet_low") is None:
        return f"{value:.4g}"
    half = row["values"]["frechet_high"] - value
    return f"{value:.4g} ± {half:.2g}"


def _kernel(row: Row) -> str:
    value, error = row["values"].get("kid"), row["values"].get("kid_error")
    return "" if value is None else f"{1000 * value:.3g} ± {1000 * error:.2g}"


def _number(name: str, how: str = ".3f") -> Shown:
    def show(row: Row) -> str:
        value = row["values"].get(name)
        return "" if value is None else format(value, how)

    return show
