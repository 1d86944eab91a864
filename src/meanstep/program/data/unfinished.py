"""The folder of a cache in the making: whose it is, which shards are full, one process at a time. Knows no images."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, write
from meanstep.program.data.cache import sha256
from meanstep.program.data.manifest import NAME, Manifest, older

PLACES = ("autoencoder", "source")  # where a thing lay and what it was called: its digest decides


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
    _made(folder)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process makes a cache in {folder}: wait for it, or choose another --out") from None
        for left in folder.glob(".*.safetensors.*"):  # what a killed process wrote aside
            left.unlink()
        path = folder / "unfinished.json"
        if (folder / NAME).exists():
            _same(folder, json.loads(json.dumps(asdict(Manifest.read(folder / NAME)))), {k: v for k, v in asked.items() if k != "rows"})
            path.unlink(missing_ok=True)
            yield Unfinished(path, asked, [], complete=True)
        else:
            yield Unfinished(path, asked, _full(folder, path, asked))


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = {p.name for p in folder.iterdir()} - {".lock"}
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into {folder}: permission denied")
    if held and not held & {NAME, "unfinished.json"} and not all(".safetensors" in name for name in held):
        raise UserError(f"{folder} is not empty and holds no cache: choose another --out")


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
        held = json.loads(path.read_text(encoding="utf-8"))
        before, parts = held["asked"], held["parts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: remove the folder, or choose another --out") from error
    _same(folder, {**older(before), **before}, asked)
    for k, part in enumerate(parts):
        file = folder / part["name"]
        if part["rows"] and not (file.is_file() and sha256(file) == part["sha256"]):
            return parts[:k]
    return parts
