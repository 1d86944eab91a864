"""A run's records: one JSON object a line, in the order in which they happened. Knows no networks.

{"kind": "start", "seen", "time", ...}             the run began or went on here
{"kind": "train", "seen", "seconds", "samples_per_second", "loss", "rate", "gradient_norm", and the metrics of docs/conventions.md}
    means over the steps since the record before; null where no row had a value
{"kind": "evaluation", "seen", "average", "extractor", "count", "steps": {"1": distance, ...}, "by", "best"}
    by: of these steps those that tell the best checkpoint, older records say none; best: whether this is the best so far
{"kind": "failure", "seen", "error"}   the loss or the gradient was not finite: the run ended here
{"kind": "caution", "seen", "words"}   what was said of the data and the network at the start
{"kind": "picture", "seen", "file"}   {"kind": "checkpoint", "seen", "folder"}
{"kind": "stop", "seen", "signal" or "by", "folder"}   a signal, or a callback in Python, stopped the run, which is saved there
{"kind": "output", "seen", "lost"}   the terminal, file or reader of its words was gone; the run goes on
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meanstep.program.disk import append, write
from meanstep.program.errors import LARGEST
from meanstep.program.reading import files, trees

Record = dict[str, Any]
LARGE = 1 << 30
"""Most bytes of a file of records."""
SYNCED = ("checkpoint", "moment", "stop")
"""Kinds after which a run does not go back."""


class Records:
    """A file of a run's folder. What will happen again is dropped: what is there beyond `seen` samples, of 0 what is said at the start."""

    def __init__(self, folder: Path, seen: int, name: str = "records.jsonl") -> None:
        self.path = folder / name
        kept = [record for record in load(self.path) if record["seen"] <= seen and (seen or record["kind"] != "caution")]
        write(self.path, "".join(_line(record) for record in kept))

    def add(self, kind: str, seen: int, **values: Any) -> Record:
        """Append one record; a kill leaves at most a line that `load` skips."""
        record = {"kind": kind, "seen": seen, **values}
        append(self.path, _line(record), sync=kind in SYNCED)
        return record


HOLDS: dict[str, dict[str, type]] = {
    "evaluation": {"average": str, "extractor": str, "count": int, "steps": dict},
    "picture": {"file": str},
    "checkpoint": {"folder": str},
    "failure": {"error": str},
    "caution": {"words": str},
}
"""What a record of a kind holds at least, beside the samples seen."""


def _placed(record: Any) -> Record:
    found: Record = record | {"seen": int(record["seen"])}
    parts = found["steps"] if found["kind"] == "evaluation" else {}
    if not 0 <= found["seen"] < LARGEST or not all(isinstance(found[name], kind) for name, kind in HOLDS.get(found["kind"], {}).items()):
        raise ValueError("it lacks what its kind holds")
    if not all(name.isdecimal() and (value is None or isinstance(value, int | float)) for name, value in parts.items()):
        raise ValueError("its distances are no numbers")
    if found["kind"] == "evaluation" and found.get("by") not in (None, *parts):
        raise ValueError("what tells its best is none of its distances")
    return found


def load(path: Path, valid: Callable[[Any], Record] = _placed) -> list[Record]:
    """The records of a file, none if there is no file; a last line that was cut is skipped, another damaged one is a `UserError`.

    `valid`: a record as it is to be read; see `trees.lines`.
    """
    return trees.lines(files.content(path, LARGE), valid, str(path), "repair or delete that line") if os.path.lexists(path) else []


def _line(record: Record) -> str:
    return json.dumps({name: _number(value) for name, value in record.items()}) + "\n"


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
