"""`--to torch`: model.pt2, a program of torch.export that runs without this package."""

import io
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.console import UserError, first_line
from meanstep.program.export.checks import Difference, compared
from meanstep.program.export.modules import named
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target

Files = dict[str, bytes]
MOST, SHOWN = 1 << 20, 8
"""Rows at a time, and labels of an example, at most."""
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
    program, most = traced(net, *example(subject), apart=subject.several or subject.choice.half)
    torch.export.save(program, box)
    loaded = torch.export.load(io.BytesIO(box.getvalue())).module()
    found = compared(subject, loaded, target.bound, "model.pt2")
    limit = "" if subject.choice.batch or most == MOST else f"\nAt most {most} rows at a time.\n"
    return {"model.pt2": box.getvalue()}, found, USE.format(call=call(subject)) + limit


def call(subject: Subject) -> str:
    """The call of the generator in Python."""
    rows = subject.choice.batch or 16
    given = f"torch.randn({', '.join(map(str, (rows, *subject.shape)))})" if subject.start is None else subject.first.replace(".", "_")
    first, *others = subject.outputs
    label = f", {_labels(subject, rows)}" if subject.labelled else ""
    label += f", torch.full(({rows},), {subject.scales[1]!r})" if subject.scales else ""
    label += "".join(f", {name.replace('.', '_')}" for name in named(subject.condition))
    return f"{', '.join([first, *others])}{'' if others else ','} = generate({given}{label})"


def _labels(subject: Subject, rows: int) -> str:
    """Labels that are drawn from those offered, in Python's words."""
    if subject.every:
        return f"torch.randint({len(subject.classes)}, ({rows},))"
    among = list(subject.among[:SHOWN])
    return f"torch.tensor({among})[torch.randint({len(among)}, ({rows},))]"


def example(subject: Subject) -> tuple[tuple[Tensor, ...], bool]:
    """Inputs to trace the whole with, of two rows or the fixed batch, and whether their number is free."""
    seeds = range(subject.choice.batch or 2)
    return (subject.noise(seeds), *subject.given(seeds).values()), not subject.choice.batch


def traced(
    net: nn.Module, inputs: tuple[Tensor, ...], free: bool, most: int = MOST, apart: bool = False
) -> tuple[torch.export.ExportedProgram, int]:
    """The program of a module, and the rows that it takes at most; `UserError` names what it cannot take. `apart`: it takes any arguments.

    A network that asks how many rows there are (some of diffusers do at 64) is traced for those up to there.
    """
    rows: Any = tuple({0: torch.export.Dim("batch", min=1, max=most)} for _ in inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter about itself
            return torch.export.export(net, inputs, dynamic_shapes=((rows,) if apart else rows) if free else None), most
    except Exception as error:  # the exporter raises dozens of kinds
        less = re.search(r"Dim\('batch', max=(\d+)\)", str(error))
        if less and int(less[1]) < most:
            return traced(net, inputs, free, int(less[1]), apart)
        fixed = "; with a fixed --batch it may be" if free else ""
        raise UserError(f"--to torch: the network cannot be traced: {first_line(error)}{fixed}") from error


class Halved(nn.Module):
    """A module whose weights are stored in half precision, and computed with in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inner = [net]  # in a list, so that its own weights are no part of this one
        self.names = [name for name, p in net.named_parameters() if p.numel()]
        self.stored = nn.ParameterList(nn.Parameter(dict(net.named_parameters())[name].detach().half(), False) for name in self.names)

    def forward(self, *given: Tensor) -> Any:
        """What the module returns."""
        weights = {name: p.float() for name, p in zip(self.names, self.stored, strict=True)}
        return torch.func.functional_call(self.inner[0], weights, given)
