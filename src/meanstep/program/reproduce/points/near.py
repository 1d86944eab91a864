"""The posterior velocity of many rows of few coordinates, in one pass over rows and references, for a compiler. Knows no models.

`velocities.Posterior` makes a matrix of rows by references and goes over it seven times. Here the pass keeps nothing. Exponents are counted
from the row's own point, at most half its squared noise, so no largest one is sought; they are of distances, which do not cancel at small
`t`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MOST = 4
"""Coordinates up to which differences are cheaper than a matrix product."""
Sums = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def sums(z: Tensor, a: Tensor, own: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
    """`sum_j w_j x_j` for each coordinate and `sum_j w_j`, `[N]`, with `w_j = exp(own - |z - a x_j|^2)`.

    `z` `[N, D]`, `a` and `own` `[N, 1]`, `reference` `[D, M]`: the `x_j`.
    """
    apart = sum(((z[:, d, None] - a * x).square() for d, x in enumerate(reference.unbind())), torch.zeros((), dtype=z.dtype))
    floor = math.log(torch.finfo(z.dtype).tiny) / 2  # an exp that underflows takes ten to thirty times as long
    weights = (own - apart).clamp(min=floor).exp()
    return (*((weights * x).sum(-1) for x in reference.unbind()), weights.sum(-1))


def velocity(x: Tensor, e: Tensor, t: Tensor, reference: Tensor, made: Sums = sums) -> Tensor:
    """The value of `Posterior(reference)` at `z = (1 - t) x + t e`, eq. (31): `[N, D]`.

    `x`, `e` `[N, D]`, `t` `[N]`, `reference` `[M, D]`; `made`: `sums`, compiled.
    """
    s = t.clamp(min=1e-6)[:, None]
    scale = math.sqrt(0.5) / s
    z, a = ((1 - t[:, None]) * x + t[:, None] * e) * scale, (1 - t[:, None]) * scale
    own = (z - a * x).square().sum(-1, keepdim=True)
    *total, mass = made(z, a, own, reference.mT.contiguous())
    mean = (torch.stack(total, -1) + x) / (mass[:, None] + 1)
    return (e - x) - (mean - x) / s
