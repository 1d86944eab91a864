"""What the target of a diagnosis stands for, by the files that are there. Opens no weights, and needs no torch."""

from pathlib import Path

from meanstep.program import flags
from meanstep.program.console import UserError
from meanstep.program.data.manifest import NAME
from meanstep.program.runs.integrity import NETWORK, STATE
from meanstep.program.runs.saved import CHECKPOINTS, CONFIG

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib")
KINDS = ".npy, .npz, .safetensors, .csv, .parquet or the folder of a cache"
ENDINGS = (".npy", ".npz", ".safetensors", ".csv", ".parquet")
BUILDER = "give --network package.module:factory, which builds its network"


def is_run(target: str) -> bool:
    """Whether it is the folder of a run, or of one of its checkpoints."""
    path = Path(target).expanduser()
    return ((path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()) or any((path / name).is_file() for name in (STATE, NETWORK))


def files(target: str, network: str | None, weights: Path | None, average: Path | None) -> tuple[str, Path | None, Path | None]:
    """What builds the network, its weights and those of its second copy: of a factory, a file of weights, or a folder with
    `model.safetensors` and perhaps `ema_*.safetensors`, in it or in its last checkpoint. `UserError` if it is none of these."""
    path = Path(target).expanduser()
    if path.is_dir():
        if network is None:
            raise UserError(f"{path} is no run of `meanstep train`: {BUILDER}")
        here = _checkpoint(path)
        copies = sorted(here.glob("ema*.safetensors"))
        return network, weights or here / "model.safetensors", average or (copies[-1] if copies else None)
    if path.suffix.lower() in (".safetensors", *PICKLES) or path.is_file():
        if network is None:
            raise UserError(f"{path} holds weights, not a network: {BUILDER}")
        return network, weights or path, average
    if ":" not in target:
        raise UserError(f"there is no folder or file {target!r}, and no package.module:factory in it")
    flags.factory(target, "the target")
    if network not in (None, target):
        raise UserError(f"--network {network} beside {target}: give one of them")
    return target, weights, average


def _checkpoint(folder: Path) -> Path:
    """The folder itself, or the last of its checkpoints."""
    inside = [p for p in (folder / "checkpoints").glob("[!.]*") if (p / "model.safetensors").is_file()]
    last = max(inside, key=lambda p: (int(p.name) if p.name.isdigit() else -1, p.name), default=None)
    if (folder / "model.safetensors").is_file() or last is None:
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"{folder} holds no model.safetensors, nor checkpoints/*/model.safetensors")
        return folder
    return last


def rows(path: Path, flag: str) -> Path:
    """The file of data or labels, or `UserError` for one of no kind that is read, and one that is not there."""
    path = path.expanduser()
    if flag == "--data" and (path / NAME).is_file():
        return path
    kind = path.suffix.lower()
    if kind in PICKLES:
        raise UserError(f"{path} is a pickle, which can run code when it is read: save arrays with numpy.save or safetensors")
    if kind not in ENDINGS:
        raise UserError(f"{path}: unknown kind of file {kind!r}; give {KINDS}")
    flags.readable(path, flag)
    return path


def checked_weights(path: Path | None, flag: str) -> None:
    """`UserError` for weights that are a pickle, or not there."""
    if path is None:
        return
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code when it is read: save with safetensors.torch.save_file(net.state_dict(), ...)"
        )
    if not path.expanduser().is_file():
        raise UserError(f"{flag}: cannot read {path}: there is no such file")
