"""The files of a run's folder, read: configuration, checkpoints, weights. Nothing is unpickled, and torch is not needed to look.

config.yaml   env.json   data.json (the cache's manifest)   autoencoder.safetensors   records.jsonl   samples/*.png
checkpoints/000000012800/
    network.json        what `networks.made` needs
    model.safetensors   ema_NAME.safetensors
    state.safetensors   the optimiser's moments, what the loss learned
    state.json          samples seen, steps, the best evaluation, sizes of the other files
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError
from meanstep.program.data.manifest import Manifest
from meanstep.program.flags import CHECKPOINT
from meanstep.program.runs.config import Config, from_yaml

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, MANIFEST, AUTOENCODER, CHECKPOINTS = "config.yaml", "data.json", "autoencoder.safetensors", "checkpoints"


def held(folder: Path) -> Config | None:
    """The configuration of a run's folder, if there is one."""
    path = folder.expanduser() / CONFIG
    return from_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def found(folder: Path) -> list[Path]:
    """The complete checkpoints of a run's folder, oldest first."""
    there = (folder / CHECKPOINTS).iterdir() if (folder / CHECKPOINTS).is_dir() else iter(())
    return sorted(path for path in there if path.name.isdecimal() and (path / "state.json").exists())


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder, its files checked for completeness but not read."""

    path: Path
    about: dict[str, Any]
    description: dict[str, Any]

    @staticmethod
    def open(path: Path) -> "Saved":
        """`UserError` names what is missing or cut."""
        about, description = (_json(path / name) for name in ("state.json", "network.json"))
        for name, size in about.get("sizes", {}).items():
            there = (path / name).stat().st_size if (path / name).exists() else -1
            if there != size:
                what = "is missing" if there < 0 else f"has {there:,} bytes instead of {size:,}"
                raise UserError(f"the checkpoint {path} is damaged: {name} {what}; delete that folder to use the one before it")
        return Saved(path, about, description)

    @property
    def averages(self) -> tuple[str, ...]:
        """The names of the averages that it holds."""
        return tuple(sorted(path.stem.removeprefix("ema_") for path in self.path.glob("ema_*.safetensors")))

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """The tensors of one file."""
        from meanstep.program.runs.public_weights import read_safetensors

        return read_safetensors(self.path / f"{name}.safetensors")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the checkpoint {path.parent} has no {path.name}: it is not complete, or no checkpoint") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no entries")
    return found


def located(path: Path, checkpoint: str | int = "last") -> tuple[Path, Saved]:
    """The run's folder and the checkpoint that is meant: `last`, `best`, or the samples that it had seen. `path`: a run's folder, or a
    checkpoint's, which is the one that is meant."""
    run, there = checkpoints(path, [str(checkpoint)])
    return run, there[0]


def checkpoints(path: Path, words: Sequence[str]) -> tuple[Path, list[Saved]]:
    """The run's folder and the checkpoints that are meant: each word is `last`, `best`, `all`, or the samples that one had seen."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}: give a run's folder, or one of its checkpoints")
    if (path / "state.json").exists():
        if any(word != "last" for word in words):
            raise UserError(f"{path} is one checkpoint: leave out --checkpoint, or give the folder of the run")
        return path.parent.parent, [Saved.open(path)]
    there = {int(p.name): p for p in found(path)}
    if not there:
        raise UserError(f"{path} holds no checkpoint: give the folder of a run of `meanstep train`")
    seen = [n for word in words for n in (there if word == "all" else [_seen(path, word, there)])]
    return path, [Saved.open(there[n]) for n in dict.fromkeys(seen)]


def _seen(run: Path, word: str, there: dict[int, Path]) -> int:
    """The samples that the checkpoint had seen which a word means."""
    if word == "last":
        return max(there)
    if word == "best":
        best = int(Saved.open(there[max(there)]).about.get("best_seen", -1))
        if best < 0:
            raise UserError(f"{run} was not evaluated while it trained: there is no best checkpoint, give its samples seen")
        return best if best in there else _none(run, best, there)
    if not word.isdecimal():
        raise UserError(f"--checkpoint: {CHECKPOINT}, got {word!r}; there are {_numbers(there)}")
    return int(word) if int(word) in there else _none(run, int(word), there)


def _none(run: Path, seen: int, there: dict[int, Path]) -> int:
    raise UserError(f"{run} has no checkpoint at {seen:,} samples: there are {_numbers(there)}")


def _numbers(there: dict[int, Path]) -> str:
    return ", ".join(f"{n:,}" for n in sorted(there))


def chosen(saved: Saved, average: str | None) -> str:
    """The average that is meant: by default the first of the run, `raw` for the weights themselves."""
    names = ("raw", *saved.averages)
    if average is None:
        return str(saved.about.get("chosen") or names[-1])
    if average not in names:
        raise UserError(f"{saved.path} has no average {average!r}: choose among {', '.join(names)}")
    return average


def averages(saved: Saved, names: Sequence[str]) -> list[str]:
    """The averages that are meant: each once, `all` for the weights themselves and all of them; none for the run's first."""
    if "all" in names:
        return ["raw", *saved.averages]
    return list(dict.fromkeys(chosen(saved, name) for name in names)) or [chosen(saved, None)]
