"""The plainest page: a line a record."""

from pathlib import Path

from meanstep.program.disk import write
from meanstep.program.pages.page import published
from meanstep.program.reproduce import records

from .. import KIND


def build(folder: Path) -> Path:
    """Write it."""
    write(folder / "summary.csv", "\n".join(["set,seed,id,value", *spoken(folder)]) + "\n")
    return published("<br>".join(spoken(folder)), folder)


def spoken(folder: Path) -> list[str]:
    """A line a record."""
    return [f"{r['set']},{r['seed']},{r['id']},{r['value']!r}" for r in records.load(folder, KIND)]
