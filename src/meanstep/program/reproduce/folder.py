"""A folder of results belongs to one study of one kind and version: recognised before anything in it is touched, then claimed."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, err
from meanstep.program.disk import clean, foreign, lock, made, write
from meanstep.program.inside import inside
from meanstep.program.machine import environment
from meanstep.program.reproduce.records import Record, read_json
from meanstep.program.reproduce.study import Study, held, kind_of

ENV = re.compile(r"env(-\d+)?\.json")


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
        own = {".": (study.kind.file, "env*.json", "records.jsonl", "summary.csv", "report.html"), "figures": ("*.png",)}
        for where, names in (own | dict(study.kind.own)).items():
            clean(here / where, names)
        yield here


def note(here: Path, study: Study, device: str) -> None:
    """Write the study's file; env.json the first time, env-2.json and so on where it goes on under another version, commit or machine."""
    write(here / study.kind.file, json.dumps(study.described(), indent=1) + "\n")
    before, now = environments(here), environment(device)
    if not before or (study.left(here) and all(_otherwise(each) != _otherwise(now) for each in before)):
        name = next(name for k in count(1) if not (here / (name := "env.json" if k == 1 else f"env-{k}.json")).exists())
        write(here / name, json.dumps(now, indent=1) + "\n")


def environments(here: Path) -> list[Record]:
    """What env.json and those after it hold, the first first."""
    names = sorted((path.name for path in here.glob("env*.json") if ENV.fullmatch(path.name)), key=lambda name: (len(name), name))
    found = [read_json(path) for name in names if (path := inside(here, name))]
    return [each for each in found if isinstance(each, dict)]


def _otherwise(told: Record) -> Record:
    """What an environment says beside the command."""
    return {name: value for name, value in told.items() if name != "command"}


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
