"""Averages of the weights: exponential ones at fixed decays and power-function ones, on local shards. Knows no files."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from meanstep.program.console import UserError


class Average:
    """A copy of a network whose weights follow it. `decay(step)` is the share that is kept at the `step`-th update, counted from 1."""

    def __init__(self, name: str, net: nn.Module) -> None:
        self.name, self.module = name, copy.deepcopy(net).requires_grad_(False).eval()
        self.power = _exponent(float(name.removeprefix("power-"))) if name.startswith("power-") else None

    def decay(self, step: int) -> float:
        """Power function: `(1 - 1/step)^(power + 1)`, arXiv 2312.02696; exponential: the decay, at most `(1 + step) / (10 + step)`."""
        if self.power is not None:
            return (1 - 1 / step) ** (self.power + 1)
        return min(float(self.name), (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Move towards the weights that the network has after its `step`-th step."""
        mine, theirs = local(self.module.parameters()), local(net.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - self.decay(step))
        for kept, new in zip(self.module.buffers(), net.buffers(), strict=True):
            kept.copy_(new)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this rank holds of each tensor."""
    return [p.to_local() if isinstance(p, DTensor) else p.detach() for p in tensors]


def names(decays: Iterable[float], widths: Iterable[float]) -> tuple[str, ...]:
    """The averages' names: `0.9999` for a decay, `power-0.10` for a relative width; `UserError` for numbers out of range."""
    decays, widths = tuple(decays), tuple(widths)
    for decay in decays:
        if not 0 <= decay < 1:
            raise UserError(f"--averages.decays: a decay lies in [0, 1), got {decay:g}")
    for width in widths:
        if not 0.01 <= width <= 0.28:
            raise UserError(f"--averages.widths: the relative width of a power-function average lies in [0.01, 0.28], got {width:g}")
    return tuple(dict.fromkeys([*(f"{decay:.15g}" for decay in decays), *map(_wide, widths)]))


def _wide(width: float) -> str:
    """Two digits, or as many as it has."""
    return f"power-{width:.2f}" if float(f"{width:.2f}") == width else f"power-{width:.15g}"


def _exponent(width: float) -> float:
    """The exponent whose profile has the relative standard deviation `width`: `width^2 = (g + 1) / ((g + 2)^2 (g + 3))`."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
