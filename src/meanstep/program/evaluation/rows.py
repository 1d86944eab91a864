"""A run's evaluations.jsonl: one JSON object a line, one line a cell. Knows no models.

{"kind": "cell", "seen", "average", "weights" (sha256 of their file), "sampler" (without it: the run's own), "steps", "guidance",
 "labels": "data" or "uniform",
 "count", "seed" (the first), "distance": "FID" or "FD-...", "extractor", "extractor_digest", "input", "repeated" (grey seen as colour),
 "reference", "reference_digest", "autoencoder" (digest), "metrics": [..], "values": VALUES or null, "failed": why none, "seconds"}
{"kind": "floor", "data": what was compared with the reference, "data_digest", and likewise from "count" on}
VALUES: {"count", "reference_count", "frechet", "frechet_low", "frechet_high" (95 percent), "blocks", "kid", "kid_error",
 "precision", "recall", "density", "coverage", "neighbours_among", "inception_score", "inception_score_spread",
 "sliced", "sliced_low", "sliced_high", "energy", "energy_half", "nearest", "nearest_half", "copies", "copies_half", "copies_floor"}
"among": of rows that are no pictures, how many of the reference sets of rows are compared with
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meanstep.program.disk import clean, lock, write
from meanstep.program.reading import files, trees

Row = dict[str, Any]
NAME = "evaluations.jsonl"
LARGE = 1 << 28
"""Most bytes of the file."""
WHAT = ("kind", "seen", "average", "weights", "sampler", "steps", "guidance", "labels", "count", "seed")
IDENTITY = (*WHAT, "extractor_digest", "reference_digest", "autoencoder", "data_digest", "among")
"""What two rows agree in that state the same cell."""


MISSING: Row = {"values": None, "failed": "not recorded", "data": "real rows"}
"""What a row is read with where it lacks an entry, as one of an older version may."""


def load(run: Path) -> list[Row]:
    """The rows of a run; a last line that a kill cut is skipped, another damaged one is a `UserError`."""
    path = run / NAME
    if not os.path.lexists(path):
        return []
    return trees.lines(files.content(path, LARGE), _valid, str(path), "delete that line, and its cell is computed again")


def _valid(row: Any) -> Row:
    """A row that holds what a table of rows shows; `ValueError`, `KeyError` or `TypeError` for another."""
    if not isinstance(row, dict) or row["kind"] not in ("cell", "floor"):
        raise ValueError("it is no row")
    values = row.get("values") or {}
    numbers = [row[name] for name in ("seen", "steps", "guidance", "count") if row["kind"] == "cell"]
    words = [row["extractor"], row["reference"], row["distance"], *row["metrics"], *(row[n] for n in ("average",) if row["kind"] == "cell")]
    if not all(isinstance(word, str) for word in words) or not all(isinstance(n, int | float) for n in numbers):
        raise TypeError("its place is none")
    if not all(value is None or isinstance(value, int | float | str | list) for value in values.values()):
        raise TypeError("its values are no numbers")
    return MISSING | row


def comparable(floor: Row, count: int) -> bool:
    """Whether a floor is that of so many samples; two halves of the reference stand for any count."""
    return str(floor["data"]).startswith("halves") or floor.get("count") == count


def append(run: Path, row: Row) -> None:
    """Add one row; whoever else evaluates the run meanwhile loses nothing."""
    with lock(run / f".{NAME}.lock"):
        clean(run, [NAME])
        write(run / NAME, "".join(json.dumps(held) + "\n" for held in [*load(run), row]))


def same(rows: Iterable[Row], wanted: Row, usual: str = "") -> Row | None:
    """The newest row of the same cell that has the metrics asked for; one that names no sampler is of the `usual` one."""
    asked = {"sampler": usual} | wanted
    fits = [row for row in rows if _alike({"sampler": usual} | row, asked) and set(wanted["metrics"]) <= set(row["metrics"])]
    return fits[-1] if fits else None


def merged(rows: Iterable[Row], usual: str = "") -> list[Row]:
    """A row for each cell and floor, with all that was measured of it; `usual`: as of `same`.

    The newest number counts. Rows of a checkpoint's weights that were written anew since are left out where the cell was computed again.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for given in rows:
        row: Row = {"sampler": usual} | given
        place = tuple(row.get(name) for name in IDENTITY if name != "weights")
        old = found.get(place, {})
        if old.get("weights") == row.get("weights"):
            metrics = [*dict.fromkeys([*old.get("metrics", ()), *row["metrics"]])]
            row |= {"metrics": metrics, "values": (old.get("values") or {}) | (row["values"] or {}) or None}
        found[place] = row
    return list(found.values())


def _alike(row: Row, wanted: Row) -> bool:
    return all(row.get(name) == wanted.get(name) for name in IDENTITY)
