"""Data distributions with a known marginal velocity: six benchmark laws of the plane, and Gaussian mixtures of any dimension.

Each is centred and scaled so that its variance, averaged over coordinates, is 1. Linear interpolant. Knows no objectives and no files.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor, float64

from meanstep.fields.boxes import checkerboard
from meanstep.fields.curves import pinwheel, swiss_roll, two_moons, two_spirals
from meanstep.fields.isotropic import Isotropic, modes


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


def gaussian_mixture(dim: int, components: int = 8, std: float = 0.3, seed: int = 0, dtype: torch.dtype = float64) -> Isotropic:
    """Equally likely Gaussians in `R^dim`, their means drawn once: normal, centred, scaled to a mean square of `1 - std^2`.

    - `dim`: `D`, from 1; `components`: how many, from 2; 8.
    - `std`: a component's, in units of the whole law's, in (0, 1); 0.3.
    - `seed`: of the means; 0.

    `ValueError` out of these ranges. The settings are ours; `reproduce mixtures --protocol authors` has those of arXiv 2605.09235.
    """
    if components < 2 or not 0 < std < 1:
        raise ValueError(f"a mixture of variance 1 needs components >= 2 and 0 < std < 1, got {components} and {std}")
    means = torch.randn(components, dim, generator=torch.Generator().manual_seed(seed), dtype=float64)
    means = means - means.mean(0)
    return modes(means * (1 - std**2) ** 0.5 / means.square().mean().sqrt(), std).to(dtype)


def eight_gaussians(dtype: torch.dtype = float64) -> Isotropic:
    """Eight Gaussians on a ring: radius 4, std 0.5 before scaling, the ratio of FFJORD's toy data (arXiv 1810.01367)."""
    angle = torch.arange(8, dtype=float64) * math.pi / 4
    return modes(4 * torch.stack([angle.cos(), angle.sin()], -1), 0.5).to(dtype)


PLANAR: dict[str, Callable[..., Law]] = {
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "eight_gaussians": eight_gaussians,
    "two_moons": two_moons,
    "two_spirals": two_spirals,
}
