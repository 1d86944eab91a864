"""A folder of results belongs to one study of one kind and version: recognised before anything in it is touched, then claimed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, err
from meanstep.program.disk import clean, foreign, lock, made, write
from meanstep.program.machine import environment
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.study import Study, held, kind_of


def examined(out: Path, study: Study) -> Record | None:
    """What a folder holds of this study, None of a new one; nothing is touched.

    `UserError` that names the first setting of another study, or for something else, a damaged file, a later version.
    """
    here, kind = out.expanduser().resolve(), study.kind
    before = held(here, kind)
    if before is None and here.is_dir():
        if (other := kind_of(here)) is not None:
            raise UserError(f"{here} holds a study of {' or '.join(other.studies)}, not {study.name}: choose another folder with --out")
        if foreign(here, [".lock", kind.file]):
            raise UserError(f"{here} is not empty and holds no study: choose another folder with --out")
    if before is not None:
        _same(here, study, before)
    return before


def _same(here: Path, study: Study, before: Record) -> None:
    if before.get("study", study.name) != study.name:
        raise UserError(f"{here} holds the study {before['study']!r}, not {study.name!r}: choose another folder with --out")
    theirs, ours = (json.loads(json.dumps(study.stated(about))) for about in (before, None))
    for name in dict.fromkeys([*ours, *(name for name in theirs if name.startswith("--"))]):
        if (was := theirs.get(name)) != (value := ours.get(name)):
            differs = f"{study.kind.option(name)} {_short(was)}, now {_short(value)}"
            raise UserError(f"{here} holds a study with {differs}: choose another folder with --out, or ask for the same")


def chosen(out: Path | None, root: Path, study: Study) -> Path:
    """The folder that was named; without one the first of ROOT, ROOT-2, ROOT-3, ... that is this study's or nobody's."""
    if out is not None:
        return out
    found, told = root, ""
    for k in count(2):
        try:
            examined(found, study)
            break
        except UserError as error:
            told, found = told or str(error), root.with_name(f"{root.name}-{k}")
    if told:
        err.print(f"{told.rpartition(': ')[0]}: this study is in {found}", soft_wrap=True)
    return found


@contextmanager
def claimed(out: Path, study: Study) -> Iterator[Path]:
    """The study's folder, made if need be and locked meanwhile; `UserError` if it is another's, or if another process is at work there.

    Where processes may share a folder, they wait for each other.
    """
    examined(out, study)
    here = made(out)
    busy = UserError(f"another process is at work in {here}: wait for it, or choose another folder with --out")
    with lock(here / ".lock", None if study.kind.shared else busy):
        examined(here, study)
        own = {".": (study.kind.file, "env.json", "records.jsonl", "summary.csv", "report.html"), "figures": ("*.png",)}
        for where, names in (own | dict(study.kind.own)).items():
            clean(here / where, names)
        yield here


def note(here: Path, study: Study, device: str) -> None:
    """Write the study's file, and env.json the first time."""
    write(here / study.kind.file, json.dumps(study.described(), indent=1) + "\n")
    if not (here / "env.json").exists():
        write(here / "env.json", json.dumps(environment(device), indent=1) + "\n")


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
