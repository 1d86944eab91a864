"""A run's folder is claimed: one configuration, one process at a time. Knows no networks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program import disk
from meanstep.program.console import UserError
from meanstep.program.data.manifest import Manifest, check_fits
from meanstep.program.machine import environment
from meanstep.program.runs.config import Config, flag
from meanstep.program.runs.facts import NAME as METHOD
from meanstep.program.runs.options import flat
from meanstep.program.runs.records import load
from meanstep.program.runs.saved import AUTOENCODER, CONDITIONS, CONFIG, MANIFEST, held, text

if TYPE_CHECKING:
    from meanstep.program.data.cache import Cache

LARGEST = 100 * 2**20
"""Bytes of an autoencoder that is copied beside the run; a larger one is referred to."""
FREE = {
    "samples",
    "device",
    "compile",
    "parallel",
    "log_every",
    "sample_every",
    "evaluate_every",
    "save_every",
    "keep",
    "loggers",
    "chunk",
    "project",
    "tags",
}
"""Entries of `run` that may change when a run goes on."""


TRACKERS = ("wandb.txt", "trackio.txt", "mlflow.txt")
WRITTEN = (".lock", MANIFEST, CONDITIONS, AUTOENCODER, "env.json", METHOD, "records.jsonl", *TRACKERS, CONFIG)
"""What a run that has made no step has; the configuration makes it a run, so it comes last."""


KEPT = 4096
"""Rows of the data whose conditions are kept beside a run, as many as have no more than `LARGEST` bytes."""
FEWEST = 64
"""Of them, however large they are."""


class Busy(UserError):
    """Another process is at work in the folder."""


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The folder, made if it is not there and locked meanwhile; `UserError` if another process is at work in it, or it is not ours."""
    here = disk.made(folder)
    _ours(here)
    with disk.lock(here / ".lock", Busy(f"another process is at work in {here}: wait for it, or choose another folder with --out")):
        disk.clean(here, WRITTEN)
        disk.clean(here / "samples", ["*.png", "*.wav"])
        yield here


def examined(folder: Path, config: Config) -> None:
    """`UserError` for a folder that holds something else, or a run with other settings; nothing is touched."""
    here = folder.expanduser().resolve()
    if here.is_dir():
        _ours(here)
        if before := held(here):
            _same(here, before, config)


def _ours(here: Path) -> None:
    if not (here / CONFIG).exists() and disk.foreign(here, WRITTEN):
        raise UserError(f"{here} is not empty and holds no run: choose another folder with --out")


PYTHON = "meanstep.train(...) in Python"
"""What env.json says of the command where there was none."""


def begin(here: Path, config: Config, cache: "Cache", device: str, command: str = "") -> None:
    """Note what the run is made of, or refuse what does not fit a run that is there; `command`: what began it, if no command line."""
    before = held(here)
    if before:
        _same(here, before, config)
    if before and (here / MANIFEST).exists():
        held_before = Manifest.read(here / MANIFEST)
        check_fits(held_before, cache.manifest, f"the run {here}", ": choose another folder with --out to begin anew")
        if held_before.look != cache.manifest.look:
            disk.write(here / MANIFEST, cache.manifest.text())
    else:  # it has not begun: what a kill left may be of other data
        _keep_autoencoder(here, cache.manifest)
        disk.write(here / MANIFEST, cache.manifest.text())
        if cache.manifest.beside:
            disk.write(here / CONDITIONS, kept(cache))
    if not before or not (here / "env.json").exists():
        told = environment(device) | ({"command": command} if command else {})
        disk.write(here / "env.json", json.dumps(told, indent=1) + "\n")
    disk.write(here / CONFIG, text(config))  # last: from here on the folder holds a run


def withdraw(here: Path) -> None:
    """Take back what was written for a run that failed before its first step, so that the corrected command finds no other run."""
    if disk.foreign(here, WRITTEN) or any(record["kind"] not in ("start", "caution") for record in load(here / "records.jsonl")):
        return
    for name in WRITTEN[1:]:
        disk.remove(here / name)


def _same(here: Path, before: Config, now: Config) -> None:
    old, new = flat(before), flat(now)
    for part, name in dict.fromkeys([*new, *old]):
        was, value = old.get((part, name)), new.get((part, name))
        if value != was and not (part == "run" and name in FREE) and (part, name) not in (("data", "source"), ("data", "preview")):
            remedy = "choose another folder with --out, or leave it out to go on with that run"
            raise UserError(f"{here} holds a run with {flag(part, name)} {_short(was)}, now {_short(value)}: {remedy}")


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else "none" if value is None else str(value)


def _keep_autoencoder(here: Path, manifest: Manifest) -> None:
    path = Path(manifest.autoencoder.partition(":")[2]).expanduser()
    fits = path.is_file() and path.suffix == ".safetensors" and path.stat().st_size <= LARGEST
    if fits and hashlib.sha256(data := path.read_bytes()).hexdigest() == manifest.autoencoder_digest:
        disk.write(here / AUTOENCODER, data)
    else:
        disk.remove(here / AUTOENCODER)


def kept(cache: "Cache") -> bytes:
    """Conditions of some rows of the data, as they are stored, for samples where the data are not: conditions.safetensors."""
    from safetensors.torch import save

    from meanstep.program.data.order import subset

    row = sum(values[:1].nbytes for values in cache.conditions.values())
    at = subset(len(cache), min(KEPT, max(FEWEST, LARGEST // row)))
    return save({name: values[at].contiguous() for name, values in cache.conditions.items()})
