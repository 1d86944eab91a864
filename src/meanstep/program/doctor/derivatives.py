"""Derivatives of any function in two ways, forward mode and a symmetric difference, and how far they are apart. Knows no networks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from meanstep.tangents import differentiable_kernels
from meanstep.tangents.forward_mode import Rules

Function = Callable[..., tuple[Tensor, ...]]


class Difference(NamedTuple):
    """A derivative by differences, and the disagreement between two steps, relative to its norm."""

    slope: Tensor
    doubt: float


def directions(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One direction, the same in every call."""
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in inputs)


def flat(out: Sequence[Tensor]) -> Tensor:
    """Several results as one vector."""
    return torch.cat([x.detach().double().flatten() for x in out]) if out else torch.zeros(0, dtype=torch.float64)


def off(a: Tensor, b: Tensor) -> float:
    """The distance of `a` from `b`, relative to `b`'s norm; 0 where both vanish."""
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    gap, size = (a - b).norm().item(), b.norm().item()
    return gap / size if size else (0.0 if gap == 0 else float("inf"))


def forward(f: Function, inputs: Sequence[Tensor], along: Sequence[Tensor], switched: bool = True) -> Tensor:
    """Forward mode as torch has it; `switched`: as `tangents.separate` runs it, with attention that has a derivative and layers by rules.

    Raises what torch raises.
    """
    if not switched:
        return flat(torch.func.jvp(f, tuple(inputs), tuple(along))[1])
    with differentiable_kernels(), Rules():
        return flat(torch.func.jvp(f, tuple(inputs), tuple(along))[1])


@torch.no_grad()
def difference(f: Function, inputs: Sequence[Tensor], along: Sequence[Tensor]) -> Difference:
    """The symmetric difference with the step, among three, that agrees best with twice as large a one."""
    double = all(x.dtype == torch.float64 for x in inputs)

    def at(h: float) -> Tensor:
        ends = [flat(f(*(x + s * h * d for x, d in zip(inputs, along, strict=True)))) for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * h)

    best = Difference(torch.zeros(0), float("inf"))
    for h in (1e-6, 1e-4, 3e-3) if double else (1e-3, 3e-3, 1e-2):
        slope = at(h)
        doubt = off(at(2 * h), slope)
        if doubt < best.doubt or not best.slope.numel():
            best = Difference(slope, doubt)
        if doubt < 1e-6:
            break
    return best
