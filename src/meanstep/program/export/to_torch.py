"""`--to torch`: model.pt2, a program of torch.export that runs without this package."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.console import UserError, first_line
from meanstep.program.export.checks import Difference, compared
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target

Files = dict[str, bytes]
USE = """\
```python
import torch

generate = torch.export.load("model.pt2").module()
{call}
```
"""


def files(subject: Subject, target: Target) -> tuple[Files, Difference, str]:
    """The files, their difference to PyTorch, and how they are used."""
    net = Halved(subject.whole()) if subject.choice.half else subject.whole()
    box = io.BytesIO()
    torch.export.save(traced(net, *example(subject)), box)
    loaded = torch.export.load(io.BytesIO(box.getvalue())).module()
    found = compared(subject, lambda *given: loaded(*[x for x in given if x is not None]), target.bound, "model.pt2")
    return {"model.pt2": box.getvalue()}, found, USE.format(call=call(subject))


def call(subject: Subject) -> str:
    """The call of the generator in Python."""
    shape = ", ".join(map(str, (subject.choice.batch or 16, *subject.shape)))
    first, *others = subject.outputs
    label = f", torch.randint({len(subject.classes)}, ({subject.choice.batch or 16},))" if subject.labelled else ""
    return f"{', '.join([first, *others])}{'' if others else ','} = generate(torch.randn({shape}){label})"


def example(subject: Subject) -> tuple[tuple[Any, ...], Any]:
    """Inputs to trace the whole with, of two rows or the fixed batch, and which of their sizes are free."""
    seeds = range(subject.choice.batch or 2)
    inputs = (subject.noise(seeds), subject.labels(seeds))
    dim = {0: torch.export.Dim("batch", min=1, max=1 << 20)}
    free = None if subject.choice.batch else (dim, dim if subject.labelled else None)
    return inputs, free


def traced(net: nn.Module, inputs: tuple[Any, ...], free: Any) -> torch.export.ExportedProgram:
    """The program of a module; `UserError` names what it cannot take."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter about itself
            return torch.export.export(net, inputs, dynamic_shapes=free)
    except Exception as error:  # the exporter raises dozens of kinds
        fixed = "" if free is None else "; with a fixed --batch it may be"
        raise UserError(f"--to torch: the network cannot be traced: {first_line(error)}{fixed}") from error


class Halved(nn.Module):
    """A module whose weights are stored in half precision, and computed with in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inner = [net]  # in a list, so that its own weights are no part of this one
        self.names = [name for name, p in net.named_parameters() if p.numel()]
        self.stored = nn.ParameterList(nn.Parameter(dict(net.named_parameters())[name].detach().half(), False) for name in self.names)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Any:
        """What the module returns."""
        weights = {name: p.float() for name, p in zip(self.names, self.stored, strict=True)}
        return torch.func.functional_call(self.inner[0], weights, (noise, label))
