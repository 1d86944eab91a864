"""A run's records: one JSON object a line, in the order in which they happened. Knows no networks.

{"kind": "start", "seen", "time", ...}             the run began or went on here
{"kind": "train", "seen", "seconds", "samples_per_second", "loss", "rate", "gradient_norm", and the metrics of docs/conventions.md}
    means over the steps since the record before; null where no row had a value
{"kind": "evaluation", "seen", "average", "extractor", "count", "steps": {"1": distance, ...}}
{"kind": "failure", "seen", "error"}   the loss or the gradient was not finite: the run ended here
{"kind": "picture", "seen", "file"}   {"kind": "checkpoint", "seen", "folder"}
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, write

Record = dict[str, Any]
SYNCED = ("checkpoint", "moment")
"""Kinds after which a run does not go back."""


class Records:
    """A file of a run's folder. What is there beyond `seen` samples is dropped: it will happen again."""

    def __init__(self, folder: Path, seen: int, name: str = "records.jsonl") -> None:
        self.path = folder / name
        kept = [record for record in load(self.path) if record["seen"] <= seen]
        write(self.path, "".join(_line(record) for record in kept))

    def add(self, kind: str, seen: int, **values: Any) -> Record:
        """Append one record; a kill leaves at most a line that `load` skips."""
        record = {"kind": kind, "seen": seen, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            if kind in SYNCED:
                os.fsync(file.fileno())
        return record


def load(path: Path) -> list[Record]:
    """The records of a file, none if there is no file; a last line that was cut is skipped, another damaged one is a `UserError`."""
    if not path.exists():
        return []
    found, lines = [], path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            found.append(record | {"seen": int(record["seen"])})
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is damaged: repair or delete that line") from None
    return found


def _line(record: Record) -> str:
    return json.dumps({name: _number(value) for name, value in record.items()}) + "\n"


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
