"""What a checkpoint says of itself in state.json, and whether that can be true. Reads no weights.

{"version": 2, "seen", "step", "best", "best_seen", "chosen", "sizes": {file: bytes}, "sha256": {file: ..}, "data": digest of its manifest,
 "digest": sha256 of all this}   Version 1, which does not say so, has "seen" to "sizes" only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from meanstep.program.errors import UserError, shown
from meanstep.program.reading import files, trees

STATE, NETWORK, MODEL = "state.json", "network.json", "model.safetensors"
VERSION = 2
LEAST = {"seen": 0, "step": 0, "best_seen": -1}
"""The least that each number can be."""


def digest(about: dict[str, Any]) -> str:
    """sha256 of what state.json says beside it."""
    return hashlib.sha256(json.dumps({k: v for k, v in about.items() if k != "digest"}, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, what: str) -> UserError:
    """What is to be said of a checkpoint."""
    return UserError(f"the checkpoint {path} is damaged: {what}; delete that folder to use the one before it")


def entries(path: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds; `UserError` if it is missing or no such file."""
    if not path.exists():
        raise UserError(f"the checkpoint {path.parent} has no {path.name}: it is not complete, or no checkpoint")
    return read(path, f"delete {path.parent} to use the one before it")


def read(path: Path, remedy: str) -> dict[str, Any]:
    """The entries of a JSON file; `UserError` ends with the remedy."""
    try:
        return trees.entries(files.content(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {remedy}") from None


def statement(path: Path) -> dict[str, Any]:
    """What state.json says, or `UserError` if it cannot be what was written."""
    about = entries(path / STATE)
    version = about.get("version", 1)
    if version not in range(1, VERSION + 1):
        raise UserError(f"the checkpoint {path} is of version {shown(version)}, this program reads up to {VERSION}: use a newer one")
    if wrong := _wrong(about, version):
        raise damaged(path, f"{STATE} {wrong}")
    if path.name.isdecimal() and int(path.name) != about["seen"]:
        raise damaged(path, f"{STATE} says seen: {about['seen']}, which is not the folder's name")
    return about


def _wrong(about: dict[str, Any], version: int) -> str:
    if version > 1 and about.get("digest") != digest(about):
        return "is not what was written"
    for name, least in LEAST.items():
        value = about.get(name, -1 if name == "best_seen" else None)
        if type(value) is not int or value < least:
            return f"says {name}: {shown(value)}"
    sizes, sums = about.get("sizes"), about.get("sha256", {})
    if not isinstance(sizes, dict) or MODEL not in sizes or not all(Path(n).name == n and type(s) is int for n, s in sizes.items()):
        return "does not say the sizes of its files"
    if version > 1 and (not isinstance(sums, dict) or {*sums} != {*sizes, NETWORK}):
        return "does not say the checksums of its files"
    if about.get("best_seen", -1) >= 0 and type(about.get("best")) not in (int, float):
        return f"says best: {shown(about.get('best'))}"
    return ""
