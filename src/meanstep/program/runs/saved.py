"""The files of a run's folder, read: configuration, checkpoints, weights. Nothing is unpickled.

config.yaml   env.json   data.json (the cache's manifest)   autoencoder.safetensors   records.jsonl   samples/*.png
checkpoints/000000012800/
    network.json        what `networks.made` needs
    model.safetensors   ema_NAME.safetensors
    state.safetensors   the optimiser's moments, what the loss learned
    state.json          samples seen, steps, the best evaluation, sizes of the other files
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from meanstep.program.console import UserError
from meanstep.program.data import Manifest
from meanstep.program.runs.config import Config, from_yaml
from meanstep.program.runs.networks import Description
from meanstep.program.runs.public_weights import read_safetensors

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
    description: Description

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

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file."""
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


def put(module: nn.Module, tensors: dict[str, Any], where: Path) -> None:
    """Load a module's values, whole ones into shards too; `UserError` names the first that does not fit."""
    own = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    for name in dict.fromkeys((*own, *tensors)):
        theirs = tuple(tensors[name].shape) if name in tensors else "missing"
        if theirs != own.get(name, "unknown"):
            here = own.get(name, "unknown")
            raise UserError(f"{where} holds another architecture: {name} is {theirs} there and {here} in this network")
    if any(isinstance(p, DTensor) for p in module.parameters()):
        set_model_state_dict(module, tensors, options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(tensors)


def put_part(module: nn.Module, tensors: dict[str, Any], start: str, where: Path) -> None:
    """Load those values whose names begin with `start`, as `put` does."""
    put(module, {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, where)


def place(run: Path, manifest: Manifest) -> str:
    """Where the autoencoder is: the run's copy, or where it was when the data were encoded."""
    kind = manifest.autoencoder.partition(":")[0]
    return f"{kind}:{run / AUTOENCODER}" if (run / AUTOENCODER).exists() else manifest.autoencoder
