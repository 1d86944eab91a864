"""Records of a study of `meanstep reproduce`, small enough to commit, and the folder that they were made of.

python studies/packs.py RUN FOLDER   # puts what RUN holds in FOLDER as packed: study.json or sweep.json, env*.json, records.jsonl.gz
python studies/packs.py FOLDER RUN   # a new folder of a pack, for `meanstep report`, or for the study's own command to go on
"""

import gzip
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meanstep.program.reproduce.folder import ENV
from meanstep.program.reproduce.records import RECORDS, Record, load
from meanstep.program.reproduce.study import Kind, kind_of

PACKED = RECORDS + ".gz"
ELSEWHERE = re.compile(r"(?<![\w./-])~?(?:/[\w.-]+)+/([\w.-]+)")
"""A path of the machine that made the records, from its root or home; its last name stays."""


def pack(run: Path, folder: Path, digits: int = 9) -> None:
    """All records of a run, of this many digits, without the folders of the machine.

    Ends with a line for what is no study, and for a pack with records that the run lacks, which would be lost.
    """
    if (kind := kind_of(run)) is None:
        raise SystemExit(f"{run} holds no study")
    mine = load(run, kind)
    with unpacked(folder) as before:
        if (folder / PACKED).is_file() and (lost := of(load(before, kind), kind) - of(mine, kind)):
            first = " ".join(min(lost))
            raise SystemExit(f"{folder} has {len(lost)} records that {run} lacks ({first}): make {run} of it, go on there, and pack that")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (run / kind.file, *(path for path in run.glob("env*.json") if ENV.fullmatch(path.name))):
        (folder / path.name).write_text(ELSEWHERE.sub(r"\1", path.read_text(encoding="utf-8")), encoding="utf-8")
    found = json.loads(json.dumps(mine), parse_float=lambda x: float(f"{float(x):.{digits}g}"))
    with (folder / PACKED).open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write("".join(json.dumps(record) + "\n" for record in found).encode())


def of(records: list[Record], kind: Kind) -> set[tuple[str, ...]]:
    """Whose the records are, and of which moments."""
    return {tuple(str(record[name]) for name in (*kind.unit, "seen") if name in record) for record in records}


def unpack(folder: Path, run: Path) -> Path:
    """A new folder with what a pack holds, each unit's records where its job looks for them: what was measured is not made again.

    Ends with a line for a folder that is there already.
    """
    if run.exists():
        raise SystemExit(f"{run} exists: name a new folder")
    shutil.copytree(folder, run)
    (run / RECORDS).write_bytes(gzip.decompress((run / PACKED).read_bytes()))
    (run / PACKED).unlink()
    if (kind := kind_of(run)) and kind.parts:
        for record in load(run, kind):
            part = run / kind.parts.replace("*", f"{record['arm']}-{record['seed']}")
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    return run


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """The same for a while; a folder whose records are not packed as it is."""
    if not (folder / PACKED).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield unpack(folder, Path(scratch) / folder.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    first, second = map(Path, sys.argv[1:])
    if (first / PACKED).is_file():
        unpack(first, second)
    else:
        pack(first, second)
