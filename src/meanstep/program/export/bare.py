"""What describes a run without the folders of the machine that made it: an entry that names a file keeps the file's name. Opens nothing."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from meanstep.program.data.manifest import Manifest
from meanstep.program.data.request import on_hub
from meanstep.program.runs.config import Config

PLACES = ("source", "pair", "start", "coupling", "extractor", "autoencoder")
"""Entries that name a file, or a kind and a file."""
Part = TypeVar("Part")


def config(held: Config) -> Config:
    """A configuration without folders."""
    return replace(held, **{f.name: _part(getattr(held, f.name)) for f in fields(held)})


def manifest(held: Manifest) -> Manifest:
    """A description of data without folders; its digest stays."""
    return _part(held)


def place(word: str) -> str:
    """`KIND:FOLDER/FILE` or `FOLDER/FILE` without its folders; a name of the hub has none."""
    head, slash, _ = word.partition("/")
    kind = head[: head.rfind(":") + 1]
    return word if not slash or kind.endswith("hub:") or on_hub(word) else kind + Path(word.removeprefix(kind)).name


def _part(part: Part) -> Part:
    named = {f.name: getattr(part, f.name) for f in fields(part)}  # type: ignore[arg-type]  # a dataclass
    changed = {name: place(value) if name in PLACES else _options(value) for name, value in named.items() if name in (*PLACES, "options")}
    return replace(part, **changed)  # type: ignore[type-var]


def _options(value: Any) -> Any:
    """Options of a network or a recipe may name files too; a word with a slash inside, such as B/2, is a name there."""
    if isinstance(value, dict):
        return {name: _options(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_options(part) for part in value]
    return place(value) if isinstance(value, str) and any(part.startswith(("/", "~/")) for part in value.split(":")) else value
