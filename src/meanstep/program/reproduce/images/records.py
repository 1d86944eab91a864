"""Names that the report still asks for here."""

from pathlib import Path

from meanstep.program.reproduce import records
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.records import Record as Record
from meanstep.program.reproduce.records import alone as alone
from meanstep.program.reproduce.study import held as _held
from meanstep.program.reproduce.study import read

STUDY = KIND.file


def load(path: Path) -> list[Record]:
    """The records of a file."""
    return records.read(path, KIND)


def collect(folder: Path) -> list[Record]:
    """The records of a study, kept in records.jsonl."""
    return records.collect(folder, KIND)


def study(folder: Path) -> Record:
    """What study.json holds."""
    return read(folder).about


def held(folder: Path) -> Record | None:
    """The same, None where there is none."""
    return _held(folder, KIND)
