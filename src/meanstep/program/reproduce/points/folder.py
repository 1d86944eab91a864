"""A folder belongs to one sweep, and to one process at a time. Knows neither models nor reports."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import clean, foreign, lock, made, write
from meanstep.program.machine import environment
from meanstep.program.reproduce.points.records import Record, load, read_json
from meanstep.program.reproduce.points.settings import Settings

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


OWN = {
    ".": ["sweep.json", "env.json", "records.jsonl", "summary.csv", "report.html"],
    "state": ["*.safetensors"],
    "samples": ["*.npz"],
    "figures": ["*.png"],
}
"""Files of a sweep, by folder: what a crash left of them is removed at the next start."""


@contextmanager
def claim(folder: Path, settings: Settings, study: str, device: str = "cpu") -> Iterator[tuple[Path, list[Record]]]:
    """The folder, made or recognised as this sweep's, and the records it holds; locked meanwhile.

    `UserError` if it holds another sweep's records or something else, if a record is damaged, or if another process is at work there.
    """
    here = made(folder)
    examined(here)
    busy = UserError(f"another process is at work in {here}: wait for it, or choose another folder with --out")
    with lock(here / ".lock", busy):
        for where, names in OWN.items():
            clean(here / where, names)
        asked = json.loads(json.dumps(_asked(settings, study)))
        _recognise(here, asked)
        found = load(here)
        write(here / "sweep.json", json.dumps(asked, indent=1) + "\n")
        if not (here / "env.json").exists():
            write(here / "env.json", json.dumps(environment(device), indent=1) + "\n")
        yield here, found


def examined(folder: Path) -> None:
    """`UserError` for a folder that holds something else; nothing is touched."""
    here = folder.expanduser().resolve()
    if here.is_dir() and not (here / "sweep.json").exists() and foreign(here, [".lock", "sweep.json"]):
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
