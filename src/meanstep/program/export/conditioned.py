"""A network from Python as what is exported: a field with conditions of any form, whose parts become named inputs. Knows no runs."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from meanstep.program.console import UserError
from meanstep.program.export.modules import Plain, named
from meanstep.program.export.subject import Choice, Subject, looked
from meanstep.program.sampling import draw


def of_net(net: nn.Module, choice: Choice, *, target: str, shape: Sequence[int], condition: Any = None, sampler: str = "walk") -> Subject:
    """The generator of a field `(z, r, t, y)` of events of this shape. `condition`: rows of the tree of tensors that `y` is, as an example.

    `UserError` for a target that has no inputs for conditions, for what only labels can have, and for conditions that are no rows.
    """
    if target not in ("onnx", "torch"):
        raise UserError(
            f"--to {target} makes a run's samples and has no inputs for conditions of other networks: --to onnx or --to torch has"
        )
    if choice.labels is not None or choice.guidance not in (None, 1):
        raise UserError("labels and guidance belong to a run with labels: leave them out, and put guidance into the network")
    if not choice.decode:
        raise UserError("decode: a network alone has no autoencoder, what it makes comes out as it is: leave it out")
    if draw.asks(sampler, "fresh"):
        raise UserError(f"--to {target}: the sampler {sampler} draws noise on its way, which an export cannot: take walk")
    parts = named(condition)
    if wrong := [name for name, part in parts.items() if not part.ndim or len(part) != len(next(iter(parts.values())))]:
        raise UserError(f"condition: every part has one row for each sample, and {wrong[0]} is {list(parts[wrong[0]].shape)}")
    facts = {"data": f"events of shape {' x '.join(map(str, shape))}", "sampler": sampler, "steps": choice.steps, "guidance": 1.0}
    facts |= {"parameters": sum(p.numel() for p in net.parameters()), "inputs": ", ".join(["noise", *parts]), "classes": []}
    return Subject(
        name=type(net).__name__,
        net=copy.deepcopy(net).float().cpu().eval(),
        sampler=draw.named(sampler),
        shape=tuple(shape),
        classes=(),
        among=(),
        choice=choice,
        decode=Plain(torch.zeros(1), torch.ones(1)).eval(),
        outputs=("values",),
        view=looked(shape),
        facts=facts,
        condition=condition,
    )
