"""The files of a run's folder, read: configuration, checkpoints, weights. Nothing is unpickled, and torch is not needed to look.

config.yaml   env.json   data.json (the cache's manifest)   autoencoder.safetensors   records.jsonl   samples/*.png
conditions.safetensors (of some rows of the data, where the network is given others than labels)
checkpoints/000000012800/
    network.json        what `networks.made` needs
    model.safetensors   ema_NAME.safetensors
    state.safetensors   the optimiser's moments, what the loss learned: to go on from
    state.json          samples seen, steps, the best evaluation; sizes and sha256 of the other files, digest of the data, and of itself

Each file is whole or refused. Files from before there were versions have no checksums and are read without. Configuration, data and weights
are enough for whoever does not go on with the training: state.* may be missing, and only what is needed is looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.errors import UserError, shown
from meanstep.program.data.manifest import Manifest, sha256
from meanstep.program.flags import CHECKPOINT
from meanstep.program.ranges import natural
from meanstep.program.reading import files, trees
from meanstep.program.runs import given
from meanstep.program.runs.config import Config, from_yaml, to_yaml
from meanstep.program.runs.hub import local
from meanstep.program.runs.integrity import NETWORK, STATE, VERSION, damaged, entries, statement

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, MANIFEST, AUTOENCODER, CHECKPOINTS = "config.yaml", "data.json", "autoencoder.safetensors", "checkpoints"
CONDITIONS = "conditions.safetensors"
HEAD, END = f"# meanstep train, version {VERSION}: edit entries, but keep the last line, which says that the file is whole", "# end"
PARTS, LAST = ("data", "network", "method", "optimiser", "averages", "run"), "loggers"
"""What a whole config.yaml holds: the parts, and in the last one the entry that was always written last."""


def text(config: Config) -> str:
    """What config.yaml holds; of a network that no file can hold also how to open the run."""
    network = config.network.name
    note = f"# {given.remedy(network)}\n" if given.is_given(network) else ""
    return f"{HEAD}\n{note}{to_yaml(config)}{END}\n"


def held(folder: Path) -> Config | None:
    """The configuration of a run's folder, if there is one; `UserError` if the file is not whole."""
    path = folder.expanduser() / CONFIG
    if not path.is_file():
        return None
    found = files.text(path, trees.LONG)
    config, parts = from_yaml(found, str(path)), trees.from_yaml(found, str(path)) or {}
    whole = all(parts.get(part) for part in PARTS) and (found.rstrip().endswith(f"\n{END}") or not found.startswith(HEAD[:16]))
    if not whole or (not found.startswith(HEAD[:16]) and LAST not in parts[PARTS[-1]]):  # without a head: older, or by hand
        remedy = "put the whole file back, which is what `meanstep train --dry-run` prints with the run's options"
        raise UserError(f"{path} is empty or cut, and what is missing would be read as defaults: {remedy}")
    return config


def found(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder that training goes on from, oldest first."""
    return [path for path in numbered(folder) if (path / STATE).exists()]


def numbered(folder: Path) -> list[Path]:
    """All folders of checkpoints, oldest first, whatever is in them."""
    there = (folder / CHECKPOINTS).iterdir() if (folder / CHECKPOINTS).is_dir() else iter(())
    return sorted(path for path in there if path.name.isdecimal() and path.is_dir())


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder. A file is compared with its size and checksum when it is read."""

    path: Path
    about: dict[str, Any]
    description: dict[str, Any]

    @staticmethod
    def open(path: Path, *, whole: bool = False) -> "Saved":
        """`UserError` names what is missing or damaged; `whole`: also of what only the training needs that goes on from it."""
        about = statement(path) if whole or (path / STATE).exists() else _unsaid(path)
        saved = Saved(path, about, entries(path / NETWORK))
        saved.file(NETWORK)
        for name in about["sizes"] if whole else ():
            saved.sized(name)
        return saved

    def file(self, name: str) -> Path:
        """Where a file of it lies; `UserError` if it is missing, or is not what was written."""
        self.sized(name)
        self._compared(name, lambda: sha256(self.path / name))
        return self.path / name

    def _compared(self, name: str, digest: Callable[[], str]) -> None:
        """`UserError` if a file has another checksum than was written."""
        wanted = self.about.get("sha256", {}).get(name)
        if wanted is not None and digest() != wanted:
            raise damaged(self.path, f"the bytes of {name} are not those that were written")

    def sized(self, name: str) -> None:
        """`UserError` if a file is missing or has another size than was written."""
        file = self.path / name
        size, there = self.about["sizes"].get(name), file.stat().st_size if file.is_file() else -1
        if there < 0 or there != (there if size is None else size):
            raise damaged(self.path, f"{name} {'is missing' if there < 0 else f'has {there:,} bytes instead of {size:,}'}")

    def of(self, manifest: Manifest) -> Manifest:
        """The description of its data, or `UserError` if it is another one."""
        if self.about.get("data", manifest.digest) != manifest.digest:
            raise UserError(f"{self.path} was trained on other data than its run's {MANIFEST} describes: that file is damaged or another's")
        return manifest

    @property
    def averages(self) -> tuple[str, ...]:
        """The names of the averages that it holds."""
        return tuple(sorted(path.stem.removeprefix("ema_") for path in self.path.glob("ema_*.safetensors")))

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """The tensors of one file, which is read once."""
        from meanstep.program.reading.tensors import File

        self.sized(f"{name}.safetensors")
        file = File.open(self.path / f"{name}.safetensors")
        self._compared(file.path.name, file.sha256)
        return file.tensors()


def _unsaid(path: Path) -> dict[str, Any]:
    """What state.json would say, as far as folder and configuration tell it."""
    from meanstep.program.training.averages import names

    if not path.name.isdecimal():
        raise UserError(f"{path} has no {STATE}, and its name is not the samples that it had seen: give it that name")
    config = held(home(path))
    averages = names(config.averages.decays, config.averages.widths, config.averages.half_lives) if config else ()
    return {"seen": int(path.name), "sizes": {}, "chosen": next(iter(averages), "raw" if config else "")}


def home(path: Path) -> Path:
    """The folder of a checkpoint's run: two up, or its own if it was copied with what describes the run."""
    return path if (path / MANIFEST).exists() or (path / CONFIG).exists() else path.parent.parent


def manifest(run: Path) -> Manifest:
    """What the run was trained on; `UserError` names what is missing."""
    if not (run / MANIFEST).exists():
        raise UserError(f"{run} does not say what it was trained on: copy the run's {MANIFEST} and {CONFIG} there, or into the checkpoint")
    return Manifest.read(run / MANIFEST)


def located(path: Path, checkpoint: str | int = "last") -> tuple[Path, Saved]:
    """The run's folder and the checkpoint that is meant: `last`, `best`, or the samples that it had seen. `path`: a run's folder, or a
    checkpoint's, which is the one that is meant."""
    run, there = checkpoints(path, [str(checkpoint)])
    return run, there[0]


def checkpoints(path: Path, words: Sequence[str]) -> tuple[Path, list[Saved]]:
    """The run's folder and the checkpoints that are meant: each word is `last`, `best`, `all`, or the samples that one had seen."""
    path = local(path)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}: give a run's folder, or one of its checkpoints")
    if (path / STATE).exists() or (path / NETWORK).exists():
        if any(word != "last" for word in words):
            raise UserError(f"{path} is one checkpoint: leave out --checkpoint, or give the folder of the run")
        return home(path), [Saved.open(path)]
    there = {int(p.name): p for p in numbered(path) if (p / NETWORK).exists() or (p / STATE).exists()}
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
        if best < 0 and not (there[max(there)] / STATE).exists():
            raise UserError(f"{there[max(there)]} has no {STATE}, which says which one is best: give its samples seen")
        if best < 0:
            raise UserError(f"{run} was not evaluated while it trained: there is no best checkpoint, give its samples seen")
        return best if best in there else _none(run, best, there)
    if (seen := natural(word)) is None:
        raise UserError(f"--checkpoint: {CHECKPOINT}, got {shown(word)}; there are {_numbers(there)}")
    return seen if seen in there else _none(run, seen, there)


def _none(run: Path, seen: int, there: dict[int, Path]) -> int:
    raise UserError(f"--checkpoint: {run} has no checkpoint at {seen:,} samples: there are {_numbers(there)}")


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
