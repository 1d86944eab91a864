"""What a run can be exported to: the bound of its difference to PyTorch, the packages it needs. Needs no torch."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from meanstep.program.console import UserError


@dataclass(frozen=True)
class Target:
    """`bound`: the largest difference to PyTorch in float32, over the spread (standard deviation) of what the network makes.

    `module`: `meanstep.program.export.` and this name makes the files; `needs`: packages that are imported, `extra`: which extra has them.
    """

    about: str
    bound: float
    module: str
    needs: tuple[str, ...] = ()
    extra: str = "export"


TARGETS = {
    "web": Target("one HTML file that generates offline, by double click", 1e-4, "to_web", ("onnx", "onnxscript", "onnxruntime")),
    "onnx": Target("one .onnx file", 1e-5, "to_onnx", ("onnx", "onnxscript", "onnxruntime")),
    "torch": Target("one .pt2 file of torch.export", 0.0, "to_torch"),
    "diffusers": Target("a folder that DiffusionPipeline.from_pretrained opens", 1e-6, "to_diffusers", ("diffusers",), "latents"),
    "hub": Target("a folder for the Hugging Face hub, with a model card", 0.0, "to_hub"),
}
"""Every target by its name on the command line."""
CARD = "card.json"
"""What was exported, and how far it is from PyTorch."""
HALF = 2e-2
"""The largest difference that rounding the weights to half precision may make, over the same spread."""


def require(to: str) -> Target:
    """The target; `UserError` if there is none of that name, or a package is missing that it needs."""
    if to not in TARGETS:
        raise UserError(f"--to: one of {', '.join(TARGETS)}, got {to!r}")
    target = TARGETS[to]
    for name in target.needs:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--to {to} needs {name}: pip install 'meanstep[{target.extra}]'")
    return target


def check_belongs(to: str, **given: object) -> None:
    """`UserError` for an option that is given and belongs to another target."""
    for name, wanted in (("field", "onnx"), ("runtime", "web")):
        if given[name] and to != wanted:
            raise UserError(f"--{name} belongs to --to {wanted}, and this is --to {to}: leave it out")


def fresh(folder: Path) -> Path:
    """The folder that is to be made; `UserError` if there is something of that name."""
    folder = folder.expanduser()
    if folder.exists() or folder.is_symlink():
        raise UserError(f"--out: {folder} exists: give the name of a new folder, or remove it")
    return folder
