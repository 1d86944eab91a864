"""Records of a study: one object a line, whoever wrote it. What a line must hold is the workload's."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError
from meanstep.program.disk import append, clean, lock, write
from meanstep.program.disk import folder as subfolder
from meanstep.program.reading import files, trees
from meanstep.program.runs import records as runs

if TYPE_CHECKING:
    from meanstep.program.reproduce.study import Kind

Record = dict[str, Any]
RECORDS = "records.jsonl"


def load(folder: Path, kind: "Kind") -> list[Record]:
    """All records of a study's folder: of units that have a file of their own from there, the others from records.jsonl.

    `UserError` names a line that is damaged; a last line that was cut is none.
    """
    return merged(read(folder / RECORDS, kind), _parts(folder, kind), kind)


def collect(folder: Path, kind: "Kind") -> list[Record]:
    """The same, and kept in records.jsonl."""
    found = load(folder, kind)
    if _parts(folder, kind):
        write(folder / RECORDS, "".join(map(_line, found)))
    return found


def add(folder: Path, made: Iterable[Record], kind: "Kind") -> None:
    """Keep what a job has made in records.jsonl, in place of the same records of before; a crash leaves the old file or the new one."""
    write(folder / RECORDS, "".join(map(_line, merged(read(folder / RECORDS, kind), list(made), kind))))


def read(path: Path, kind: "Kind") -> list[Record]:
    """The records of one file, none if there is no file."""

    def valid(record: Any) -> Record:
        if any(name not in record for name in kind.needs[record["kind"]]):
            raise KeyError(record["kind"])
        found: Record = record | {name: int(record[name]) for name in ("seed", "seen") if name in record}
        return found

    return runs.load(path, valid)


def merged(before: list[Record], new: list[Record], kind: "Kind") -> list[Record]:
    """Units that are in `new` from there, the others as before; of each moment the last, and no failure of a unit that went on."""

    def unit(record: Record) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in kind.unit)

    again = {unit(record) for record in new}
    last: dict[tuple[Any, ...], Record] = {}
    for record in [*(r for r in before if unit(r) not in again), *new]:
        failure = (*unit(record), "failure")
        if failure in last and record.get("seen", 0) > last[failure]["seen"]:
            del last[failure]
        last[failure if record["kind"] == "failure" else (*unit(record), record.get("seen"))] = record
    return sorted(last.values(), key=lambda r: (*(r[name] for name in kind.order), r["kind"] == "failure") if kind.order else ())


def _parts(folder: Path, kind: "Kind") -> list[Record]:
    return [record for part in sorted(folder.glob(kind.parts)) for record in read(part, kind)] if kind.parts else []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process writes a report or records.jsonl for one; `UserError` if the folder cannot be written into."""
    with lock(folder / ".report.lock"):
        clean(folder, [RECORDS, "report.html", "summary.csv"])
        clean(folder / "figures", ["*.png"])
        yield


class Part:
    """A job's own file of records; of what is there only what is `kept` stays: the rest will be made again."""

    def __init__(self, path: Path, kind: "Kind", kept: Callable[[Record], bool] = lambda record: True) -> None:
        subfolder(path.parent)
        self.path, self.found = path, [record for record in read(path, kind) if kept(record)]
        write(path, "".join(map(_line, self.found)))

    def add(self, record: Record) -> Record:
        """Append one, synced; a kill leaves at most a line that is read as none. The record as it is read again."""
        found: Record = finite(record)
        append(self.path, _line(found), sync=True)
        return found


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def finite(x: Any) -> Any:
    """The same structure with null for every number that is not finite, of training that diverged."""
    if isinstance(x, dict):
        return {name: finite(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def read_json(path: Path) -> Any:
    """The content of a JSON file, `UserError` if it is not one."""
    try:
        return trees.from_json(files.text(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
