"""The folder of a cache in the making: whose it is, which shards are full, one process at a time. Knows no images."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, err, say
from meanstep.program.data.manifest import NAME, Manifest, older, sha256
from meanstep.program.disk import append, clean, foreign, lock, made, remove, write
from meanstep.program.reading import files, trees

UNFINISHED = "unfinished.json"
OWN = (".lock", NAME, UNFINISHED, "shard-[0-9][0-9][0-9][0-9][0-9].safetensors")
"""What is written into a cache's folder, as patterns."""
LARGEST = 1 << 30
"""Bytes of that file: each shard has sums of every entry of the first axis, of which tables may have tens of thousands."""
PLACES = ("autoencoder", "source", "look")  # where a thing lay, what it was called and how it is shown: its digest decides


@dataclass(frozen=True)
class Unfinished:
    """`parts`: the entries of the full shards, in order; `complete`: a manifest is there already."""

    path: Path
    asked: dict[str, Any]
    parts: list[dict[str, Any]]
    complete: bool = False

    def add(self, part: dict[str, Any]) -> None:
        """Note a shard that is written: what is known of those before is not written again."""
        if not self.parts:
            write(self.path, _line({"asked": self.asked}))
        self.parts.append(part)
        append(self.path, _line(part), sync=True)


def _line(entries: dict[str, Any]) -> str:
    return json.dumps(entries) + "\n"


@contextmanager
def claim(folder: Path, asked: dict[str, Any], wait: bool = False) -> Iterator[Unfinished]:
    """The folder, made or recognised as this cache's, locked meanwhile; `UserError` if it holds anything else.

    `wait`: for another process that holds it, in place of an error.
    """
    made(folder)
    if not any((folder / name).exists() for name in (NAME, UNFINISHED)) and foreign(folder, OWN):
        raise UserError(f"{folder} is not empty and holds no cache: choose another --out")
    with _alone(folder, wait):
        clean(folder, OWN)
        path = folder / UNFINISHED
        if (folder / NAME).exists():
            _same(folder, json.loads(json.dumps(asdict(Manifest.read(folder / NAME)))), {k: v for k, v in asked.items() if k != "rows"})
            remove(path)
            yield Unfinished(path, asked, [], complete=True)
        else:
            yield Unfinished(path, asked, _full(folder, path, asked))


@contextmanager
def _alone(folder: Path, wait: bool) -> Iterator[None]:
    busy = UserError(f"another process makes a cache in {folder}: wait for it, or choose another --out")
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder / ".lock", busy))
        except UserError as error:
            if error is not busy or not wait:
                raise
            say(f"another process makes the cache in {folder}: waiting for it", on=err)
            held.enter_context(lock(folder / ".lock"))
        yield


def _same(folder: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if name not in PLACES and held.get(name) != value:
            before, now = (str(v)[:40] for v in (held.get(name), value))
            raise UserError(f"{folder} holds another cache ({name.replace('_', ' ')} {before}, now {now}): choose another --out")


def _full(folder: Path, path: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries up to the first shard that is not on disk as it was written."""
    if not path.exists():
        return []
    remedy = "remove the folder, or choose another --out"
    found = trees.lines(files.content(path, LARGEST), _valid, str(path), remedy)
    if not found or "asked" not in found[0]:
        raise UserError(f"{path} is damaged: {remedy}")
    before, parts = found[0]["asked"], [*found[0].get("parts", ()), *found[1:]]  # which were of the same entry in older folders
    _same(folder, {**older(before), **before}, asked)
    files_there = (not part["rows"] or _there(folder / part["name"], part["sha256"]) for part in parts)
    whole = parts[: next((k for k, there in enumerate(files_there) if not there), len(parts))]
    write(path, "".join(map(_line, [{"asked": asked}, *whole])))
    return whole


def _valid(entry: Any) -> dict[str, Any]:
    """A line: what is asked for, or a shard; what it raises else says that the line is damaged."""
    for part in (*entry.get("parts", ()), *([] if "asked" in entry else [entry])):
        if not isinstance(part["name"], str) or not isinstance(part["rows"], int) or not isinstance(part["sha256"], str):
            raise ValueError("no shard")
    if not isinstance(entry.get("asked", {}), dict):
        raise ValueError("nothing is asked for")
    return dict(entry)


def _there(file: Path, digest: str) -> bool:
    return file.is_file() and sha256(file) == digest
