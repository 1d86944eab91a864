"""A run's evaluations.jsonl: one JSON object a line, one line a cell. Knows no models.

{"kind": "cell", "seen", "average", "weights" (sha256 of their file), "sampler" (without it: the run's own), "steps", "guidance",
 "labels": "data" or "uniform",
 "count", "seed" (the first), "distance": "FID" or "FD-...", "extractor", "extractor_digest", "input", "repeated" (grey seen as colour),
 "reference", "reference_digest", "autoencoder" (digest), "metrics": [..], "values": VALUES or null, "failed": why none, "seconds"}
{"kind": "floor", "data": what was compared with the reference, "data_digest", and likewise from "count" on}
VALUES: {"count", "reference_count", "frechet", "frechet_low", "frechet_high" (95 percent), "blocks", "kid", "kid_error",
 "precision", "recall", "density", "coverage", "neighbours_among", "inception_score", "inception_score_spread"}
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import clean, lock, write

Row = dict[str, Any]
NAME = "evaluations.jsonl"
WHAT = ("kind", "seen", "average", "weights", "sampler", "steps", "guidance", "labels", "count", "seed")
IDENTITY = (*WHAT, "extractor_digest", "reference_digest", "autoencoder", "data_digest")
"""What two rows agree in that state the same cell."""


def load(run: Path) -> list[Row]:
    """The rows of a run; a last line that a kill cut is skipped, another damaged one is a `UserError`."""
    path = run / NAME
    if not path.exists():
        return []
    lines, found = path.read_text(encoding="utf-8", errors="replace").split("\n"), []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line or "null")
            if row is not None:
                found.append({"kind": row["kind"], "metrics": row["metrics"], **row})
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(f"{path}, line {number} is damaged: delete that line, and its cell is computed again") from None
    return found


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


def _alike(row: Row, wanted: Row) -> bool:
    return all(row.get(name) == wanted.get(name) for name in IDENTITY)
