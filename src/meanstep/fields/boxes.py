"""The checkerboard: uniform on boxes of the plane, with a known marginal velocity."""

import math

import torch
from torch import Generator, Tensor, float64

from meanstep.fields.quadrature import legendre
from meanstep.keys import drawn
from meanstep.precise import uncast


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
        x, w = legendre(12, digits=16)
        y = 2 * x - 1
        self.nodes, self.weights = y.to(dtype), torch.stack([w, w * y, w * y**2], -1).to(dtype)

    def __repr__(self) -> str:
        return f"Checkerboard({self.dtype})"

    def to(self, dtype: torch.dtype) -> "Checkerboard":
        """The same law in another precision."""
        return Checkerboard(dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh draws, `[n, 2]`."""
        box = self.boxes[drawn(torch.randint, 8, (n,), generator=generator, device="cpu")]
        within = 2 * drawn(torch.rand, n, 2, generator=generator, dtype=float64, device="cpu") - 1
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
        with uncast(z):
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
        with uncast(z):
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
