"""Data distributions with a known marginal velocity: six benchmark laws of the plane, and Gaussian mixtures of any dimension.

Each is centred and scaled so that its variance, averaged over coordinates, is 1. Linear interpolant. Knows no objectives and no files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, float64

from meanstep.fields.analytic import Mixture

Draw = Callable[[int, Generator | None], Tensor]


class Law(Protocol):
    """A data distribution on `R^dim` with everything about its marginal velocity, cut into `regions` of about equal probability."""

    @property
    def dim(self) -> int:
        """Number of coordinates, `D`."""
        ...

    @property
    def regions(self) -> int:
        """Number of modes, or of pieces of the curves."""
        ...

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh draws, `[n, D]`; the same ones, rounded, in every precision."""
        ...

    def velocity(self, z: Tensor, t: Tensor, /) -> Tensor:
        """The marginal velocity `E[v | z_t]`, eq. (3): `[*B, D], [*B] -> [*B, D]`."""
        ...

    def covariance(self, z: Tensor, t: Tensor, /) -> Tensor:
        """The noise `S = Cov(v | z_t)`, eq. (3): `[*B, D, D]`."""
        ...

    def differential(self, z: Tensor, t: Tensor, dz: Tensor, dt: Tensor, /) -> tuple[Tensor, Tensor]:
        """The marginal velocity and its derivative along `(dz, dt)`: `[*B, D]` both."""
        ...

    def log_density(self, x: Tensor, /) -> Tensor:
        """Log density of the data, `[*B, D] -> [*B]`."""
        ...

    def region(self, x: Tensor, /) -> Tensor:
        """The region nearest to each point, int64 `[*B]` in `range(regions)`."""
        ...

    def to(self, dtype: torch.dtype, /) -> "Law":
        """The same law in another precision."""
        ...


@dataclass(frozen=True, eq=False)
class Isotropic:
    """Centres plus Gaussian noise, the same in every direction: a mixture of few Gaussians, or of a continuum of them by quadrature.

    `mixture`: the centres, or the nodes of the quadrature, `[K, D]`; `std`: of the noise; `labels`: int64 `[K]`, the region of each;
    `centres`: draws `[n, D]` of the law without its noise, float64.
    """

    mixture: Mixture
    std: float
    labels: Tensor
    centres: Draw

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.mixture.means.shape[1]

    @property
    def regions(self) -> int:
        """Number of modes, or of pieces of the curves."""
        return int(self.labels.max()) + 1

    def to(self, dtype: torch.dtype) -> "Isotropic":
        """The same law in another precision."""
        m = self.mixture
        return Isotropic(Mixture(m.means.to(dtype), self.std, m.weights.to(dtype)), self.std, self.labels, self.centres)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh draws, `[n, D]`."""
        c = self.centres(n, generator)
        noise = torch.randn(c.shape, generator=generator, dtype=c.dtype, device=c.device)
        return (c + self.std * noise).to(self.mixture.means)

    def _logits(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log joint density of nodes and `z_t` up to `|z|^2` and the norm, `[*B, K]`, and the variance about a node, `[*B, 1]`."""
        a, t, c = 1 - t[..., None], t[..., None], self.mixture.means
        variance = a**2 * self.std**2 + t**2
        features = torch.cat([c, -c.square().sum(-1, keepdim=True) / 2], -1)
        return torch.cat([z * a, a**2], -1) / variance @ features.mT + self.mixture.weights.log(), variance

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity, eq. (3), `[*B, D]`: `Mixture.velocity` as two matrix products, without its `[*B, K, D]`."""
        logits, variance = self._logits(z, t)
        t = t[..., None]
        return ((t - (1 - t) * self.std**2) * z - t * (logits.softmax(-1) @ self.mixture.means)) / variance

    def covariance(self, z: Tensor, t: Tensor) -> Tensor:
        """The noise, eq. (3): `[*B, D, D]`."""
        return self.mixture.covariance(z, t)

    def differential(self, z: Tensor, t: Tensor, dz: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The marginal velocity and its derivative along `(dz, dt)`: `[*B, D]` both."""
        return self.mixture.differential(z, t, dz, dt)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density of the data, `[*B]`."""
        logits, _ = self._logits(x, torch.zeros_like(x[..., 0]))
        norm = self.dim * math.log(2 * math.pi * self.std**2) / 2
        return logits.logsumexp(-1) - x.square().sum(-1) / (2 * self.std**2) - norm

    def region(self, x: Tensor) -> Tensor:
        """The region of the nearest node, int64 `[*B]`."""
        c = self.mixture.means
        return self.labels[(x @ c.mT - c.square().sum(-1) / 2).argmax(-1)]


def _standardised(mixture: Mixture, labels: Tensor, centres: Draw) -> Isotropic:
    """Shifted and scaled to mean 0 and mean variance 1, both of them sums over the nodes."""
    c, w, std = mixture.means, mixture.weights, mixture.stds[0, 0].item()
    shift = w @ c
    scale = ((w @ (c - shift).square()).mean() + std**2).sqrt()
    std = std / scale.item()
    return Isotropic(Mixture((c - shift) / scale, std, w), std, labels, lambda n, g: (centres(n, g) - shift) / scale)


def _uniform(n: int, generator: Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, dtype=float64)


def _modes(means: Tensor, std: float) -> Isotropic:
    """Equally likely Gaussians, `means` `[K, D]`."""
    k = len(means)
    return _standardised(Mixture(means, std), torch.arange(k), lambda n, g: means[torch.randint(k, (n,), generator=g)])


def gaussian_mixture(dim: int, components: int = 8, std: float = 0.3, seed: int = 0, dtype: torch.dtype = float64) -> Isotropic:
    """Equally likely Gaussians in `R^dim`, their means drawn once: normal, centred, scaled to a mean square of `1 - std^2`.

    `std` is a component's, in units of the whole law's. The settings are ours: those of the mixtures in arXiv 2605.09235 are not known.
    """
    if components < 2 or not 0 < std < 1:
        raise ValueError(f"a mixture of variance 1 needs components >= 2 and 0 < std < 1, got {components} and {std}")
    means = torch.randn(components, dim, generator=torch.Generator().manual_seed(seed), dtype=float64)
    means = means - means.mean(0)
    return _modes(means * (1 - std**2) ** 0.5 / means.square().mean().sqrt(), std).to(dtype)


def eight_gaussians(dtype: torch.dtype = float64) -> Isotropic:
    """Eight Gaussians on a ring: radius 4, std 0.5 before scaling, the ratio of FFJORD's toy data (arXiv 1810.01367)."""
    angle = torch.arange(8, dtype=float64) * math.pi / 4
    return _modes(4 * torch.stack([angle.cos(), angle.sin()], -1), 0.5).to(dtype)


# --- curves


def _legendre(n: int, digits: float = 8) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights `[n]`: Gauss-Legendre's, spread evenly by an arcsine, which costs no more than that many digits.

    Even nodes resolve noise of one width along a curve with two thirds of them. Source: Kosloff and Tal-Ezer, J. Comput. Phys. 104, 1993.
    """
    k = torch.arange(1, n, dtype=float64)
    off = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    y, vectors = torch.linalg.eigh(off + off.mT)
    a = 1 / math.cosh(digits * math.log(10) / n)
    return (1 + (a * y).asin() / math.asin(a)) / 2, vectors[0] ** 2 * a / math.asin(a) / (1 - (a * y) ** 2).sqrt()


@dataclass(frozen=True)
class _Curve:
    """Arms `point(theta, arm)`, equally likely, with `theta` distributed by `cdf` and its inverse `quantile`, plus noise `std`.

    `parameter`: a smooth map from (0, 1) to `theta` along which the nodes are even on the curve; `nodes`, `pieces`: of one arm.
    """

    point: Callable[[Tensor, Tensor], Tensor]
    cdf: Callable[[Tensor], Tensor]
    quantile: Callable[[Tensor], Tensor]
    parameter: Callable[[Tensor], Tensor]
    std: float
    nodes: int
    arms: int = 1
    pieces: int = 1

    def centres(self, n: int, generator: Generator | None) -> Tensor:
        """Draws on the curve, `[n, 2]`."""
        arm = torch.randint(self.arms, (n,), generator=generator)
        return self.point(self.quantile(_uniform(n, generator)), arm)

    def law(self, dtype: torch.dtype, refine: int) -> Isotropic:
        """The law with `refine` times as many nodes."""
        x, w = _legendre(refine * self.nodes)
        theta, arm = self.parameter(x), torch.arange(self.arms).repeat_interleave(len(x))
        share, mass = torch.func.jvp(lambda x: self.cdf(self.parameter(x)), (x,), (torch.ones_like(x),))[:2]
        labels = (share * self.pieces).long().clamp(max=self.pieces - 1)
        mixture = Mixture(self.point(theta.repeat(self.arms), arm), self.std, (w * mass).repeat(self.arms))
        return _standardised(mixture, labels.repeat(self.arms) + self.pieces * arm, self.centres).to(dtype)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


def swiss_roll(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """`theta (cos theta, sin theta)`, `theta` uniform on `[3 pi / 2, 9 pi / 2]`, noise 1: scikit-learn's, as FFJORD uses it; 8 pieces."""
    a, b = 1.5 * math.pi, 4.5 * math.pi
    return _Curve(
        point=lambda theta, arm: _polar(theta, theta),
        cdf=lambda theta: (theta - a) / (b - a),
        quantile=lambda u: a + (b - a) * u,
        parameter=lambda x: (a * a + (b * b - a * a) * x).sqrt(),
        std=1.0,
        nodes=120,
        pieces=8,
    ).law(dtype, refine)


def pinwheel(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Five arms: radius `r ~ N(1, 0.3^2)` within 3 standard deviations, angle `2 pi k / 5 + exp(r) / 4`, noise 0.1; one region an arm.

    The standard construction (FFJORD's toy data) has normal noise 0.1 across the radius only and no bound on `r`. Ours is isotropic, so
    that the velocity is known, and bounded, so that arms end and need few nodes.
    """
    even = 0.7  # how fast the speed along an arm grows with r
    tail = torch.special.ndtr(torch.tensor(-3.0, dtype=float64)).item()
    return _Curve(
        point=lambda r, arm: _polar(r, 2 * math.pi * arm / 5 + r.exp() / 4),
        cdf=lambda r: (torch.special.ndtr((r - 1) / 0.3) - tail) / (1 - 2 * tail),
        quantile=lambda u: 1 + 0.3 * torch.special.ndtri(tail + (1 - 2 * tail) * u),
        parameter=lambda x: 0.1 + (1 + math.expm1(1.8 * even) * x).log() / even,
        std=0.1,
        nodes=40,
        arms=5,
    ).law(dtype, refine)


def two_moons(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Half circles `(cos theta, sin theta)` and `(1 - cos theta, 1/2 - sin theta)`, noise 0.1: scikit-learn's; 4 pieces a moon."""

    def point(theta: Tensor, arm: Tensor) -> Tensor:
        return (1 - 2 * arm)[..., None] * _polar(torch.ones_like(theta), theta) + arm[..., None] * theta.new_tensor([1.0, 0.5])

    return _Curve(
        point=point,
        cdf=lambda theta: theta / math.pi,
        quantile=lambda u: math.pi * u,
        parameter=lambda x: math.pi * x,
        std=0.1,
        nodes=48,
        arms=2,
        pieces=4,
    ).law(dtype, refine)


def two_spirals(dtype: torch.dtype = float64, refine: int = 1) -> Isotropic:
    """Arms `+-theta (-cos theta, sin theta)`, `theta = 3 pi sqrt(u)`, noise 1/3; 4 pieces an arm.

    FFJORD's toy data, whose noise is normal (std 0.3) plus uniform on [0, 1/2]: here one isotropic normal of the same variance.
    """
    end = 3 * math.pi
    length = end + end**2 / 2  # close to the arc length, and smooth at 0
    return _Curve(
        point=lambda theta, arm: _polar((2 * arm - 1) * theta, -theta),
        cdf=lambda theta: (theta / end) ** 2,
        quantile=lambda u: end * u.sqrt(),
        parameter=lambda x: (1 + 2 * length * x).sqrt() - 1,
        std=1 / 3,
        nodes=164,
        arms=2,
        pieces=4,
    ).law(dtype, refine)


# --- boxes


def _on_interval(c: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A standard normal on `[c - b, c + b]`, `c >= 0`, from the closed form: log mass / width (up to a constant), mean and variance."""
    low, high, drop = c - b, c + b, torch.exp(-2 * c * b)
    root, both = 2**0.5, math.sqrt(math.pi / 2)
    far = low > 0
    tail = torch.special.erfcx(low.clamp(min=0) / root) - drop * torch.special.erfcx(high / root)
    core = torch.special.erf(high / root) - torch.special.erf(low.clamp(max=0) / root)
    # mass of the interval over sqrt(pi / 2), and with the factor exp(-low^2 / 2) taken out where it is a tail
    mass = torch.where(far, tail, core)
    edge = torch.where(far, torch.ones_like(low), torch.exp(-(low.clamp(max=0) ** 2) / 2)) / (both * mass)
    mean = edge * -torch.expm1(-2 * c * b)
    variance = 1 + edge * (low - drop * high) - mean**2
    return mass.log() - torch.where(far, low**2 / 2, torch.zeros_like(low)) + (both / (2 * b)).log(), mean, variance


class Checkerboard:
    """Uniform on the 8 boxes of a board of 4 x 4, side `4 / sqrt(4/3)`: the regions are the boxes.

    Given `z_t` and its box, each coordinate is a truncated normal: erf and erfcx where it is short or cut at one side, 12 nodes of
    Gauss-Legendre where it is nearly flat. All of it stays finite: far away, and at `t = 0` inside the boxes.
    """

    dim, regions = 2, 8

    def __init__(self, dtype: torch.dtype = float64) -> None:
        self.dtype, self.half = dtype, 3**0.5 / 4
        self.centres = (2 * torch.arange(4, dtype=dtype) - 3) * self.half
        self.boxes = torch.tensor([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
        x, w = _legendre(12, digits=16)
        y = 2 * x - 1
        self.nodes, self.weights = y.to(dtype), torch.stack([w, w * y, w * y**2], -1).to(dtype)

    def to(self, dtype: torch.dtype) -> "Checkerboard":
        """The same law in another precision."""
        return Checkerboard(dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh draws, `[n, 2]`."""
        box = self.boxes[torch.randint(8, (n,), generator=generator)]
        within = 2 * torch.rand(n, 2, generator=generator, dtype=float64) - 1
        return ((2 * box - 3 + within) * self.half).to(self.dtype)

    def _axes(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each coordinate and each of its 4 intervals the log mass and the mean and variance of the velocity, `[*B, 2, 4]`."""
        t, z = t.clamp(min=torch.finfo(t.dtype).eps)[..., None, None], z[..., None]
        d, b = z - (1 - t) * self.centres, (1 - t) * self.half / t
        side = torch.where(d < 0, -torch.ones_like(d), torch.ones_like(d))
        c = side * d / t
        short = (b > 0.5) | (c * b > 4)
        a, one = torch.where(short, 1 - t, 1), torch.ones_like(c)
        mass, e, variance = _on_interval(torch.where(short, c, one), torch.where(short, b, one))
        tilt = torch.where(short, 0, c * b)[..., None] * self.nodes - (torch.where(short, 0, b)[..., None] * self.nodes) ** 2 / 2
        total, first, second = (tilt.exp() @ self.weights).unbind(-1)  # tilt <= 4: no overflow
        flat, w = total.log() - c**2 / 2, first / total
        spread = (self.half / t) ** 2 * (second / total - w**2)
        v = torch.where(short, (side * e - z) / a, (z - self.centres - side * self.half * w) / t)
        return torch.where(short, mass, flat), v, torch.where(short, variance / a**2, spread)

    def _boxes(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities of the boxes, `[*B, 8, 1]`; mean and variance of the velocity given each, `[*B, 8, 2]`."""
        mass, v, variance = (torch.stack([q[..., k, self.boxes[:, k]] for k in (0, 1)], -1) for q in self._axes(z, t))
        return mass.sum(-1).softmax(-1)[..., None], v, variance

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity, eq. (3): `[*B, 2], [*B] -> [*B, 2]`."""
        p, v, _ = self._boxes(z, t)
        return (p * v).sum(-2)

    def covariance(self, z: Tensor, t: Tensor) -> Tensor:
        """The noise, eq. (3): `[*B, 2, 2]`."""
        p, v, variance = self._boxes(z, t)
        d = v - (p * v).sum(-2, keepdim=True)
        return (p * d).mT @ d + torch.diag_embed((p * variance).sum(-2))

    def differential(self, z: Tensor, t: Tensor, dz: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The marginal velocity and its derivative along `(dz, dt)`, by forward mode: `[*B, 2]` both."""
        v, dv = torch.func.jvp(self.velocity, (z, t), (dz, dt))[:2]
        return v, dv

    def _distance(self, x: Tensor) -> Tensor:
        """Squared distance to each box, `[*B, 8]`: 0 inside."""
        return ((x[..., None, :] - self.centres[self.boxes]).abs() - self.half).clamp(min=0).square().sum(-1)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density of the data, `[*B]`: minus infinity off the boxes."""
        outside = self._distance(x).amin(-1) > 0
        return torch.full_like(x[..., 0], -math.log(32 * self.half**2)).masked_fill(outside, -math.inf)

    def region(self, x: Tensor) -> Tensor:
        """The nearest box, int64 `[*B]`."""
        return self._distance(x).argmin(-1)


def checkerboard(dtype: torch.dtype = float64) -> Checkerboard:
    """Uniform on the boxes `i + j` even of a board of 4 x 4, as in FFJORD's toy data."""
    return Checkerboard(dtype)


PLANAR: dict[str, Callable[..., Law]] = {
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "eight_gaussians": eight_gaussians,
    "two_moons": two_moons,
    "two_spirals": two_spirals,
}
