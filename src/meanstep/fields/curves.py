"""Four curves of the plane with noise about them, as laws with a known marginal velocity."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, float64

from meanstep.fields.analytic import Mixture
from meanstep.fields.isotropic import Isotropic, standardised
from meanstep.fields.quadrature import legendre
from meanstep.keys import drawn


def _uniform(n: int, generator: Generator | None) -> Tensor:
    return drawn(torch.rand, n, generator=generator, dtype=float64, device="cpu")


@dataclass(frozen=True)
class Curve:
    """Arms `point(theta, arm)`, equally likely, with `theta` distributed by `cdf` and its inverse `quantile`, plus noise `std`.

    `theta` `[*B]` is the place on an arm, and `arm` `[*B]` its whole number, from 0; `u`, a share of the arm in (0, 1). `parameter`: a
    smooth map from `x` in (0, 1) to `theta` along which the nodes are even on the curve; `nodes`, `pieces`: of one arm. `law(dtype,
    refine)` makes the distribution. A curve of your own gives the four functions and the numbers.
    """

    std: ClassVar[float]
    nodes: ClassVar[int]
    arms: ClassVar[int] = 1
    pieces: ClassVar[int] = 1

    def point(self, theta: Tensor, arm: Tensor) -> Tensor:
        """The points of the curve, `[*B, 2]`."""
        raise NotImplementedError

    def cdf(self, theta: Tensor) -> Tensor:
        """The distribution function of `theta`, `[*B]`."""
        raise NotImplementedError

    def quantile(self, u: Tensor) -> Tensor:
        """Its inverse, `[*B]`."""
        raise NotImplementedError

    def parameter(self, x: Tensor) -> Tensor:
        """`theta` of a number in (0, 1), `[*B]`."""
        raise NotImplementedError

    def centres(self, n: int, generator: Generator | None) -> Tensor:
        """Draws on the curve, `[n, 2]`."""
        arm = drawn(torch.randint, self.arms, (n,), generator=generator, device="cpu")
        return self.point(self.quantile(_uniform(n, generator)), arm)

    def law(self, dtype: torch.dtype, refine: int) -> Isotropic:
        """The law with `refine` times as many nodes."""
        x, w = legendre(refine * self.nodes)
        theta, arm = self.parameter(x), torch.arange(self.arms).repeat_interleave(len(x))
        share, mass = torch.func.jvp(lambda x: self.cdf(self.parameter(x)), (x,), (torch.ones_like(x),))[:2]
        labels = (share * self.pieces).long().clamp(max=self.pieces - 1)
        mixture = Mixture(self.point(theta.repeat(self.arms), arm), self.std, (w * mass).repeat(self.arms))
        return standardised(mixture, labels.repeat(self.arms) + self.pieces * arm, self.centres).to(dtype)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


class SwissRoll(Curve):
    """The curve of `swiss_roll`; `theta`, `arm`, `u` and `x` as of `Curve`."""

    std, nodes, pieces = 1.0, 120, 8
    ends: ClassVar[tuple[float, float]] = (1.5 * math.pi, 4.5 * math.pi)

    def point(self, theta: Tensor, arm: Tensor) -> Tensor:
        """The points of the curve, `[*B, 2]`."""
        return _polar(theta, theta)

    def cdf(self, theta: Tensor) -> Tensor:
        """The distribution function of `theta`, `[*B]`."""
        return (theta - self.ends[0]) / (self.ends[1] - self.ends[0])

    def quantile(self, u: Tensor) -> Tensor:
        """Its inverse, `[*B]`."""
        return self.ends[0] + (self.ends[1] - self.ends[0]) * u

    def parameter(self, x: Tensor) -> Tensor:
        """`theta` of a number in (0, 1), `[*B]`."""
        return (self.ends[0] * self.ends[0] + (self.ends[1] * self.ends[1] - self.ends[0] * self.ends[0]) * x).sqrt()


def swiss_roll(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """`theta (cos theta, sin theta)`, `theta` uniform on `[3 pi / 2, 9 pi / 2]`, noise 1: scikit-learn's, as FFJORD uses it; 8 pieces.

    `refine`: how many times as many nodes of the quadrature; 1.
    """
    return SwissRoll().law(dtype, refine)


class Pinwheel(Curve):
    """The arms of `pinwheel`; `theta`, `arm`, `u` and `x` as of `Curve`."""

    std, nodes, arms = 0.1, 40, 5
    even: ClassVar[float] = 0.7  # how fast the speed along an arm grows with its radius
    tail: ClassVar[float] = torch.special.ndtr(torch.tensor(-3.0, dtype=float64)).item()

    def point(self, theta: Tensor, arm: Tensor) -> Tensor:
        """The points of the curve, `[*B, 2]`."""
        return _polar(theta, 2 * math.pi * arm / 5 + theta.exp() / 4)

    def cdf(self, theta: Tensor) -> Tensor:
        """The distribution function of `theta`, `[*B]`."""
        return (torch.special.ndtr((theta - 1) / 0.3) - self.tail) / (1 - 2 * self.tail)

    def quantile(self, u: Tensor) -> Tensor:
        """Its inverse, `[*B]`."""
        return 1 + 0.3 * torch.special.ndtri(self.tail + (1 - 2 * self.tail) * u)

    def parameter(self, x: Tensor) -> Tensor:
        """`theta` of a number in (0, 1), `[*B]`."""
        return 0.1 + (1 + math.expm1(1.8 * self.even) * x).log() / self.even


def pinwheel(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Five arms: radius `r ~ N(1, 0.3^2)` within 3 standard deviations, angle `2 pi k / 5 + exp(r) / 4`, noise 0.1; one region an arm.

    The standard construction (FFJORD's toy data) has normal noise 0.1 across the radius only and no bound on `r`. Ours is isotropic, so
    that the velocity is known, and bounded, so that arms end and need few nodes. `refine` as of `swiss_roll`.
    """
    return Pinwheel().law(dtype, refine)


class TwoMoons(Curve):
    """The half circles of `two_moons`; `theta`, `arm`, `u` and `x` as of `Curve`."""

    std, nodes, arms, pieces = 0.1, 48, 2, 4

    def point(self, theta: Tensor, arm: Tensor) -> Tensor:
        """The points of the curve, `[*B, 2]`."""
        return (1 - 2 * arm)[..., None] * _polar(torch.ones_like(theta), theta) + arm[..., None] * theta.new_tensor([1.0, 0.5])

    def cdf(self, theta: Tensor) -> Tensor:
        """The distribution function of `theta`, `[*B]`."""
        return theta / math.pi

    def quantile(self, u: Tensor) -> Tensor:
        """Its inverse, `[*B]`."""
        return math.pi * u

    def parameter(self, x: Tensor) -> Tensor:
        """`theta` of a number in (0, 1), `[*B]`."""
        return math.pi * x


def two_moons(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Half circles `(cos theta, sin theta)` and `(1 - cos theta, 1/2 - sin theta)`, noise 0.1: scikit-learn's; 4 pieces a moon.

    `refine` as of `swiss_roll`.
    """
    return TwoMoons().law(dtype, refine)


class TwoSpirals(Curve):
    """The arms of `two_spirals`; `theta`, `arm`, `u` and `x` as of `Curve`."""

    std, nodes, arms, pieces = 1 / 3, 164, 2, 4
    end: ClassVar[float] = 3 * math.pi
    length: ClassVar[float] = 3 * math.pi + (3 * math.pi) ** 2 / 2  # close to the arc length, and smooth at 0

    def point(self, theta: Tensor, arm: Tensor) -> Tensor:
        """The points of the curve, `[*B, 2]`."""
        return _polar((2 * arm - 1) * theta, -theta)

    def cdf(self, theta: Tensor) -> Tensor:
        """The distribution function of `theta`, `[*B]`."""
        return (theta / self.end) ** 2

    def quantile(self, u: Tensor) -> Tensor:
        """Its inverse, `[*B]`."""
        return self.end * u.sqrt()

    def parameter(self, x: Tensor) -> Tensor:
        """`theta` of a number in (0, 1), `[*B]`."""
        return (1 + 2 * self.length * x).sqrt() - 1


def two_spirals(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Arms `+-theta (-cos theta, sin theta)`, `theta = 3 pi sqrt(u)`, noise 1/3; 4 pieces an arm.

    FFJORD's toy data, whose noise is normal (std 0.3) plus uniform on [0, 1/2]: here one isotropic normal of the same variance.
    `refine` as of `swiss_roll`.
    """
    return TwoSpirals().law(dtype, refine)
