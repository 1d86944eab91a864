"""The folder of a cache in the making: whose it is, which shards are full, one process at a time. Knows no images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.data.manifest import NAME, Manifest, older, sha256
from meanstep.program.disk import clean, foreign, lock, made, remove, write
from meanstep.program.reading import files, trees

UNFINISHED = "unfinished.json"
OWN = (".lock", NAME, UNFINISHED, "shard-[0-9][0-9][0-9][0-9][0-9].safetensors")
"""What is written into a cache's folder, as patterns."""
PLACES = ("autoencoder", "source", "look")  # where a thing lay, what it was called and how it is shown: its digest decides


@dataclass(frozen=True)
class Unfinished:
    """`parts`: the entries of the full shards, in order; `complete`: a manifest is there already."""

    path: Path
    asked: dict[str, Any]
    parts: list[dict[str, Any]]
    complete: bool = False

    def add(self, part: dict[str, Any]) -> None:
        """Note a shard that is written."""
        self.parts.append(part)
        write(self.path, json.dumps({"asked": self.asked, "parts": self.parts}) + "\n")


@contextmanager
def claim(folder: Path, asked: dict[str, Any]) -> Iterator[Unfinished]:
    """The folder, made or recognised as this cache's, locked meanwhile; `UserError` if it holds anything else."""
    made(folder)
    if not any((folder / name).exists() for name in (NAME, UNFINISHED)) and foreign(folder, OWN):
        raise UserError(f"{folder} is not empty and holds no cache: choose another --out")
    with lock(folder / ".lock", UserError(f"another process makes a cache in {folder}: wait for it, or choose another --out")):
        clean(folder, OWN)
        path = folder / UNFINISHED
        if (folder / NAME).exists():
            _same(folder, json.loads(json.dumps(asdict(Manifest.read(folder / NAME)))), {k: v for k, v in asked.items() if k != "rows"})
            remove(path)
            yield Unfinished(path, asked, [], complete=True)
        else:
            yield Unfinished(path, asked, _full(folder, path, asked))


def _same(folder: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if name not in PLACES and held.get(name) != value:
            before, now = (str(v)[:40] for v in (held.get(name), value))
            raise UserError(f"{folder} holds another cache ({name.replace('_', ' ')} {before}, now {now}): choose another --out")


def _full(folder: Path, path: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries up to the first shard that is not on disk as it was written."""
    if not path.exists():
        return []
    try:
        held = trees.entries(files.text(path))
        before, parts = held["asked"], held["parts"]
    except (UserError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged: remove the folder, or choose another --out") from error
    _same(folder, {**older(before), **before}, asked)
    for k, part in enumerate(parts):
        file = folder / part["name"]
        if part["rows"] and not (file.is_file() and sha256(file) == part["sha256"]):
            return parts[:k]
    return parts
