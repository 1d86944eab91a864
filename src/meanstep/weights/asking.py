"""Weights that ask the field for derivatives at their rows: what a loss asks of any weight, and a factor that passes it on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meanstep import boundary
from meanstep.types import Bridge, Weight
from meanstep.values import Value, called_as
from meanstep.weights.plain import constant


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


def slope(weight: Weight, error: Tensor, b: Bridge) -> Tensor:
    """The derivative of each row's loss in its error `[*B]`: what its gradient is multiplied by, `[*B]`.

    By the weight's own method `slope(error, bridge)` if its class has one itself, else by autograd. A weight that asks for derivatives must
    be answered first.
    """
    if weight is constant:
        return torch.ones_like(error)
    own = vars(type(weight)).get("slope")  # one that is inherited does not know what the subclass changed
    found: Tensor = _slope(weight, error, b) if own is None else own(weight, error, b)
    return found


@torch.enable_grad()
def _slope(weight: Weight, error: Tensor, b: Bridge) -> Tensor:
    leaf = error.detach().requires_grad_()
    return torch.autograd.grad(weight(leaf, b).sum(), leaf)[0]


@torch.no_grad()
def exponent(weight: Weight, b: Bridge, error: Tensor) -> Tensor:
    """How fast a weight falls at an error `[*B]`: `-d log w / d log q`, `w` the factor of a row's gradient; `p q / (q + c)` of eq. (24).

    Above 1/2 the mean of two equally likely values, with this squared error at the mean, is not stable: eq. (62). A weight that asks for
    derivatives must be answered first.
    """
    step = 1e-2
    up, down = (slope(weight, error * math.exp(s), b) for s in (step, -step))
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

    def slope(self, error: Tensor, b: Bridge) -> Tensor:
        """The factor times the slope of the weight inside at a row's `error`, `[*B]`."""
        return self.factor(b) * slope(self.weight, error, b)

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
