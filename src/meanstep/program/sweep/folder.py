"""A folder belongs to one sweep, and to one process at a time. Knows neither models nor reports."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError, write
from meanstep.program.machine import environment
from meanstep.program.sweep.records import Record, load, read_json
from meanstep.program.sweep.settings import Settings

OPTIONS = {
    "steps": "--updates",
    "lr": "--rate",
    "ensemble": "--device",
    "samples": "--scale",
    "directions": "--scale",
    "probe": "--scale",
    "ema_decay": "--scale",
}
"""The option that decides a setting, where it has another name."""


@contextmanager
def claim(folder: Path, settings: Settings, study: str, device: str = "cpu") -> Iterator[tuple[Path, list[Record]]]:
    """The folder, made or recognised as this sweep's, and the records it holds; locked meanwhile.

    `UserError` if it holds another sweep's records or something else, if a record is damaged, or if another process is at work there.
    """
    here = _folder(folder)
    with (here / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is at work in {here}: wait for it, or choose another folder with --out") from None
        asked = json.loads(json.dumps(_asked(settings, study)))
        _recognise(here, asked)
        found = load(here)
        write(here / "sweep.json", json.dumps(asked, indent=1) + "\n")
        if not (here / "env.json").exists():
            write(here / "env.json", json.dumps(environment(device), indent=1) + "\n")
        yield here, found


def _folder(folder: Path) -> Path:
    here = folder.expanduser().resolve()
    try:
        here.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {here}: {error.strerror}") from error
    if not os.access(here, os.W_OK):
        raise UserError(f"cannot write into {here}: permission denied")
    examined(here)
    return here


def examined(folder: Path) -> None:
    """`UserError` for a folder that holds something else; nothing is touched."""
    here, own = folder.expanduser().resolve(), {".lock", "sweep.json"}
    if here.is_dir() and not (here / "sweep.json").exists() and any(p.name not in own for p in here.iterdir()):
        raise UserError(f"{here} is not empty and holds no sweep: choose another folder with --out")


def _asked(settings: Settings, study: str) -> dict[str, Any]:
    lines = [{"arm": arm, "beta": beta, "id": spec.id} for arm, beta, spec in settings.lines()]
    return {"study": study, "settings": settings.record(), "lines": lines}


def _recognise(here: Path, asked: dict[str, Any]) -> None:
    path = here / "sweep.json"
    if not path.exists():
        return
    held = read_json(path)
    if not isinstance(held, dict) or not isinstance(held.get("settings"), dict):
        raise UserError(f"{path} is damaged: it holds no settings; choose another folder with --out")
    if held.get("study") != asked["study"]:
        raise UserError(f"{here} holds the sweep {held.get('study')!r}, not {asked['study']!r}: choose another folder with --out")
    for name, value in asked["settings"].items():
        if (before := held["settings"].get(name)) != value:
            if name == "digest":
                raise UserError(f"the points of {here} have changed since it was begun: choose another folder with --out")
            option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
            remedy = f"choose another folder with --out, or ask for the same {option}"
            raise UserError(f"{here} holds another sweep's records ({name} {_short(before)}, now {_short(value)}): {remedy}")


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
