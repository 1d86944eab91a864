"""The file in which a unit of work keeps what it has trained so far. Knows no models."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from meanstep.program import disk
from meanstep.program.errors import UserError
from meanstep.program.reading import trees
from meanstep.program.reading.tensors import File

Told = tuple[int, dict[str, Any], list[float]]
"""The step, points of curves by model, and seconds of the clocks."""
FACTS = ("step", "curves", "clock")


def keep(path: Path, tensors: dict[str, Tensor], told: Told, compiled: bool = False) -> None:
    """Write the file aside and rename it: a crash leaves the one before. `compiled`: whether compiled steps made it."""
    from safetensors.torch import save

    disk.folder(path.parent)
    facts = {name: json.dumps(value) for name, value in zip(FACTS, told, strict=True)}
    facts |= {"compiled": "true"} if compiled else {}
    disk.write(path, save({name: p.cpu().contiguous() for name, p in tensors.items()}, facts))


def restore(path: Path, own: dict[str, Tensor], clocks: int) -> Told | None:
    """Copy what the file holds into these tensors; None, and nothing is copied, if it is damaged or another's. `clocks`: how many."""
    try:
        file = File.open(path)
        tensors, (step, curves, clock) = file.tensors(), (trees.from_json(file.facts()[name]) for name in FACTS)
        told = int(step), dict(curves), [float(seconds) for seconds in clock]
    except (UserError, LookupError, ValueError, TypeError):
        return None
    if _forms(tensors) != _forms(own) or len(told[2]) != clocks:
        return None
    for name, mine in own.items():
        mine.copy_(tensors[name])
    return told


def compiled(path: Path) -> bool:
    """Whether compiled steps made the file; False where it cannot be read."""
    try:
        return File.open(path).facts().get("compiled") == "true"
    except UserError:
        return False


def _forms(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (p.shape, p.dtype) for name, p in tensors.items()}
