"""Names that the report still asks for here."""

from pathlib import Path

from meanstep.program.reproduce import records
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.records import Record as Record
from meanstep.program.reproduce.records import read_json as read_json


def load(folder: Path) -> list[Record]:
    """All records of a sweep."""
    return records.load(folder, KIND)
