"""What an export of a run is told of its conditions and of where its flow starts, and which targets can be told."""

from typing import Any

import torch
from torch import nn

from meanstep.program.console import UserError
from meanstep.program.data.codecs import CODECS
from meanstep.program.data.request import listed
from meanstep.program.export.modules import Begun, Told
from meanstep.program.sampling import conditions
from meanstep.program.sampling.model import Model

APART = "--to onnx and --to torch have inputs for them"


def refused(model: Model, target: str, fixed: conditions.Stored) -> None:
    """`UserError` for what a target cannot be told."""
    if model.manifest.length is not None:
        raise UserError(f"--to {target}: rows of this model differ in length, and an export has no mask: sample with meanstep")
    if target in ("onnx", "torch"):
        return
    free = [c.name for c in model.needed if c.name not in fixed]
    if target != "web":
        raise UserError(f"--to {target} has labels alone, and this network is given {listed([c.name for c in model.needed])}: {APART}")
    if model.manifest.start is not None:
        raise UserError(f"--to web: a page draws noise, and this flow starts at {model.manifest.start.name}: {APART}")
    if free:
        what = f"--to web has no inputs for the condition{'s' * (len(free) > 1)} {listed(free)}"
        raise UserError(f"{what}: fix {'them' if len(free) > 1 else 'it'} with --condition NAME=VALUE, or {APART}")


def beside(model: Model, net: nn.Module, guidance: float, fixed: conditions.Stored) -> dict[str, Any]:
    """What a subject is told of conditions and of where a flow starts."""
    start, told = model.manifest.start, tuple(c for c in model.needed if not c.start)
    if start is not None and start.name in fixed:
        raise UserError(f"--condition {start.name}: the flow starts there, it is an input of each sample: leave it out")
    free = {c.name: model.held[c.name] for c in told if c.name not in fixed}
    found: dict[str, Any] = {"told": Told(net, told, fixed, guidance, model.null), "condition": free or None}
    if start is None:
        return found
    mean, std = model.manifest.moments(torch.zeros(1))
    if CODECS[model.manifest.codec].pictures and model.manifest.codec != "latents":
        mean, std = mean + 127.5, std * 127.5
    return found | {"start": (start.name, model.held[start.name].float()), "begin": Begun(mean, std).eval()}
