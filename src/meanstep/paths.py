"""Paths between data `x` at `t = 0` and noise `e` at `t = 1`: `(x, e, t) -> (z, v)`. Knows no fields."""

import math

from torch import Tensor

from meanstep.shapes import over


def linear(x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`z = (1 - t) x + t e`, `v = e - x`; eq. (1), (2). `x`, `e`: `[*B, *E]`, `t`: `[*B]`."""
    s = over(t, x)
    return (1 - s) * x + s * e, e - x


def trigonometric(x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`z = cos(pi t / 2) x + sin(pi t / 2) e` and its derivative in `t`; keeps the variance of unit data."""
    angle = over(t, x) * (math.pi / 2)
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * e, (math.pi / 2) * (cos * e - sin * x)
