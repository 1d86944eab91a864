"""The sets of the toy code of arXiv 2605.09235's authors, unscaled as theirs: draws only, for their densities are not needed.

Every draw is in float64 from one generator, in the order of the code, and rounded last. Written from the description of their public
code (PurdueDigitalTwin/research, run_toy.py at e73b108).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, float64

from meanstep.keys import key

CENTRES, RADIUS, STD = 64, 1.5, 0.5
"""Of the dense mixture: how many, on what sphere, and the deviation about each."""


def _uniform(n: int, g: Generator | None) -> Tensor:
    return torch.rand(n, generator=g, dtype=float64)


def _normal(shape: tuple[int, ...], g: Generator | None) -> Tensor:
    return torch.randn(shape, generator=g, dtype=float64)


def _polar(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def checkerboard(n: int, g: Generator | None) -> Tensor:
    """Eight squares of side 2 on [-4, 4]^2, the column first."""
    along, within, coin = 4 * _uniform(n, g) - 2, _uniform(n, g), torch.randint(2, (n,), generator=g)
    return 2 * torch.stack([along, within - 2 * coin + along.floor().remainder(2)], -1)


def eight_gaussians(n: int, g: Generator | None) -> Tensor:
    """A ring of radius 3 with deviation 0.25."""
    which = torch.randint(8, (n,), generator=g)
    return 3 * _polar(which.double() * (math.pi / 4)) + 0.25 * _normal((n, 2), g)


def two_moons(n: int, g: Generator | None) -> Tensor:
    """Half circles of radius 1, the first half of the rows on the upper one; times 2 with noise 0.08 before."""
    upper, lower = math.pi * _uniform(n // 2, g), math.pi * _uniform(n - n // 2, g)
    second = torch.stack([1 - lower.cos(), 0.5 - lower.sin()], -1)
    return 2 * (torch.cat([_polar(upper), second]) + 0.08 * _normal((n, 2), g))


def swiss_roll(n: int, g: Generator | None) -> Tensor:
    """One spiral of angles from 1.5 to 4.5 pi."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, g))
    return angle[:, None] * _polar(angle) / 8 + 0.08 * _normal((n, 2), g)


def two_spirals(n: int, g: Generator | None) -> Tensor:
    """Two spirals of 540 degrees, the first half of the rows on one."""
    angle = 3 * math.pi * _uniform(n, g).sqrt()
    sign = torch.ones(n, 1, dtype=float64)
    sign[n // 2 :] = -1
    return sign * angle[:, None] * _polar(angle) / 5 + 0.08 * _normal((n, 2), g)


def pinwheel(n: int, g: Generator | None) -> Tensor:
    """Five bent arms."""
    arm = torch.randint(5, (n,), generator=g).double()
    x, y = (_normal((n, 2), g) * torch.tensor([0.3, 0.1], dtype=float64) + torch.tensor([1.0, 0.0], dtype=float64)).unbind(-1)
    angle = arm * (2 * math.pi / 5) + 0.25 * x.exp()
    c, s = angle.cos(), angle.sin()
    return 1.5 * torch.stack([c * x - s * y, s * x + c * y], -1)


DRAWS: dict[str, Callable[[int, Generator | None], Tensor]] = {
    f.__name__: f for f in (swiss_roll, checkerboard, pinwheel, eight_gaussians, two_moons, two_spirals)
}


def _on_sphere(dim: int, g: Generator | None) -> Tensor:
    return RADIUS * torch.nn.functional.normalize(_normal((CENTRES, dim), g), dim=-1)


@dataclass(frozen=True)
class Drawn:
    """A set of which only draws are known. `centres`: of a mixture whose centres stay, `[64, D]`; None where every call draws its own."""

    name: str
    dim: int
    centres: Tensor | None = None
    dtype: torch.dtype = torch.float32
    regions: int = 0

    def to(self, dtype: torch.dtype) -> "Drawn":
        """The same in another precision."""
        return replace(self, dtype=dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh rows `[n, D]`: one batch, for a mixture may draw its centres anew for every call."""
        if self.name in DRAWS:
            return DRAWS[self.name](n, generator).to(self.dtype)
        centres = _on_sphere(self.dim, generator) if self.centres is None else self.centres
        which = torch.randint(CENTRES, (n,), generator=generator)
        return (centres[which] + STD * _normal((n, self.dim), generator)).to(self.dtype)

    def shuffled(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` fresh rows in an order of chance, so that any part of them is a sample too: two sets are drawn half by half."""
        rows = self.sample(n, generator)
        return rows[torch.randperm(n, generator=generator)]


def dense_mixture(dim: int, fixed: bool, seed: int = 0) -> Drawn:
    """64 Gaussians about a sphere; with `fixed` the centres are drawn once, by a seed of their own."""
    return Drawn(f"mixture-{dim}", dim, _on_sphere(dim, key(seed, "centres", dim)) if fixed else None)
