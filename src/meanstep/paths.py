"""Paths `z = a(t) x + b(t) e` between data `x` at `t = 0` and noise `e` at `t = 1`: drawn, differentiated, inverted. Knows no fields."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from meanstep.catalogue import marked
from meanstep.shapes import over

C = TypeVar("C", bound="type[Path]")


def path(name: str) -> Callable[[C], C]:
    """Declares a path, a class without arguments, for the table of paths by `name`."""
    return marked(name=name)


@dataclass(frozen=True)
class Path:
    """A path is its two `scales`, with `a(0) = b(1) = 1` and `a(1) = b(0) = 0`; all else follows from them, eq. (1), (2), (1b).

    A path of your own is a frozen dataclass with a method `scales`; `slopes` may be written out too. Times `t` `[*B]` are in [0, 1]; data
    `x`, noise `e`, points `z` and velocities `v` are `[*B, *E]`. `NotImplementedError` without `scales`.
    """

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`a(t)` and `b(t)`, `[*B]` each."""
        raise NotImplementedError(f"{type(self).__name__} is no path yet: give it a method scales(t) -> (a, b)")

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of the scales, `[*B]` each; by forward mode unless they are written out."""
        found: tuple[Tensor, Tensor] = torch.func.jvp(self.scales, (t,), (torch.ones_like(t),))[1]
        return found

    def __call__(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The point and the conditional velocity `(z, v)`, `[*B, *E]` each, of data and noise `[*B, *E]` at `t` `[*B]`; eq. (1), (2)."""
        a, b, da, db = (over(p, x) for p in (*self.scales(t), *self.slopes(t)))
        return a * x + b * e, da * x + db * e

    def data(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The data `[*B, *E]` of a point and its conditional velocity, eq. (1b)."""
        (_, b), (_, db) = self.scales(t), self.slopes(t)
        return (over(db, z) * z - over(b, z) * v) / over(self._determinant(t), z)

    def noise(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The noise `[*B, *E]` of a point and its conditional velocity, eq. (1b)."""
        (a, _), (da, _) = self.scales(t), self.slopes(t)
        return (over(a, z) * v - over(da, z) * z) / over(self._determinant(t), z)

    def span(self, t: Tensor) -> Tensor:
        """What a change of the data at a fixed point is divided by to give the velocity's, with a minus: `b / (a b' - a' b)`, `[*B]`."""
        return self.scales(t)[1] / self._determinant(t)

    def _determinant(self, t: Tensor) -> Tensor:
        (a, b), (da, db) = self.scales(t), self.slopes(t)
        return a * db - da * b


@path("linear")
@dataclass(frozen=True)
class Linear(Path):
    """`z = (1 - t) x + t e`, `v = e - x`: the path of rectified flow and of MeanFlow."""

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`1 - t` and `t`."""
        return 1 - t, t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and 1."""
        one = torch.ones_like(t)
        return -one, one

    def __call__(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The point and the conditional velocity, eq. (1), (2)."""
        s = over(t, x)
        return (1 - s) * x + s * e, e - x

    def data(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """`z - t v`."""
        return z - over(t, z) * v

    def noise(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """`z + (1 - t) v`."""
        return z + over(1 - t, z) * v

    def span(self, t: Tensor) -> Tensor:
        """`t`."""
        return t


@path("trigonometric")
@dataclass(frozen=True)
class Trigonometric(Path):
    """`z = cos(pi t / 2) x + sin(pi t / 2) e`: keeps the variance of unit data."""

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine and the sine of `pi t / 2`."""
        angle = t * (math.pi / 2)
        return angle.cos(), angle.sin()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`-pi / 2` times the sine, `pi / 2` times the cosine."""
        cos, sin = self.scales(t)
        return -(math.pi / 2) * sin, (math.pi / 2) * cos


linear = Linear()
trigonometric = Trigonometric()
