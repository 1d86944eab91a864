"""Weights that ask the field for derivatives at their rows: what a loss asks of any weight, and a factor that passes it on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meanstep import boundary
from meanstep.types import Bridge, Weight
from meanstep.values import Value, called_as


def probes(weight: Weight, b: Bridge) -> Tensor | None:
    """The directions of `z`, `[K, *B, *E]`, along which a weight asks for the field's derivative at its rows; None for most weights.

    A weight that asks has the methods `probes(bridge)`, `answered(bridge, slopes) -> Weight` and `draws(entries)`, see `Trace`.
    """
    ask = getattr(weight, "probes", None)
    found: Tensor | None = None if ask is None else ask(b)
    return found


def draws(weight: Weight, entries: int) -> int:
    """How many uniforms of its own a weight needs for a row of so many `entries`, after the first four of `Bridge.aux`."""
    ask = getattr(weight, "draws", None)
    return 0 if ask is None else ask(entries)


def answered(weight: Weight, b: Bridge, slopes: Tensor | None) -> Weight:
    """The weight once `slopes`, the derivatives along its `probes`, are known, `[K, *B, *E]`; itself if it does not ask for any."""
    answer = getattr(weight, "answered", None)
    return weight if answer is None else answer(b, slopes)


@torch.no_grad()
def exponent(weight: Weight, b: Bridge, error: Tensor) -> Tensor:
    """How fast a weight falls at an error `[*B]`: `-d log w / d log q`, `w` the factor of a row's gradient; `p q / (q + c)` of eq. (24).

    Above 1/2 the mean of two equally likely values, with this squared error at the mean, is not stable: eq. (62). A weight that asks for
    derivatives must be answered first.
    """

    def slope(at: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            (found,) = torch.autograd.grad(weight(leaf, b).sum(), leaf)
        return found

    step = 1e-2
    up, down = (slope(error * math.exp(s)) for s in (step, -step))
    return (down / up).log() / (2 * step)


@dataclass(frozen=True, repr=False, eq=False)
class Factored(Value):
    """A factor times another weight's loss, see `times_factor`.

    `weight`: a weight without parameters; `factor`: a function of the bridge to `[*B]`.
    """

    weight: Weight
    factor: Callable[[Bridge], Tensor | float]

    def __repr__(self) -> str:
        return called_as("times_factor", [self.weight, self.factor], {})

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss."""
        return self.factor(b) * self.weight(error, b)

    def probes(self, b: Bridge) -> Tensor | None:
        """Those of the weight inside."""
        return probes(self.weight, b)

    def draws(self, entries: int) -> int:
        """Those of the weight inside, for a row of so many `entries`."""
        return draws(self.weight, entries)

    def answered(self, b: Bridge, slopes: Tensor | None) -> Weight:
        """The same factor of the weight inside, answered by `slopes`."""
        return Factored(answered(self.weight, b, slopes), self.factor)


def times_factor(weight: Weight, factor: Callable[[Bridge], Tensor | float]) -> Factored:
    """`factor(bridge)` times another weight's loss: it comes strictly after the adaptive weight and does not enter its `q`.

    `weight`: a weight without parameters, else `TypeError`; `factor`: a function of the bridge to `[*B]`, such as `tangent_gap`.
    """
    no_module(weight)
    boundary.weight("weight", weight)
    boundary.function("factor", factor, "a function of the bridge to a factor of each row, such as weights.tangent_gap", 1)
    return Factored(weight, factor)


def no_module(weight: Weight) -> None:
    """`TypeError` for a weight that learns, which must be a term's own."""
    if isinstance(weight, nn.Module):
        raise TypeError("a learned weight must be a term's own weight, or its parameters are lost: put the factor inside the module")
