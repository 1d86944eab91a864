"""Gaussians of one width about centres: a few, or a continuum of them by quadrature. On the linear path."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from meanstep.fields.analytic import Mixture
from meanstep.keys import drawn
from meanstep.precise import uncast
from meanstep.values import Value

Draw = Callable[[int, Generator | None], Tensor]


@dataclass(frozen=True, repr=False, eq=False)
class Isotropic:
    """Centres plus Gaussian noise, the same in every direction: a mixture of few Gaussians, or of a continuum of them by quadrature.

    `mixture`: the centres, or the nodes of the quadrature, `[K, D]`; `std`: of the noise; `labels`: int64 `[K]`, the region of each;
    `centres`: draws `[n, D]` of the law without its noise, float64.
    """

    mixture: Mixture
    std: float
    labels: Tensor
    centres: Draw

    def __repr__(self) -> str:
        return f"Isotropic({len(self.mixture.means)} centres in {self.dim} dimensions, std={self.std:.4g}, regions={self.regions})"

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
        noise = drawn(torch.randn, c.shape, generator=generator, dtype=c.dtype, device=c.device)
        return (c + self.std * noise).to(self.mixture.means)

    def _logits(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log joint density of nodes and `z_t` up to `|z|^2` and the norm, `[*B, K]`, and the variance about a node, `[*B, 1]`."""
        a, t, c = 1 - t[..., None], t[..., None], self.mixture.means
        variance = a**2 * self.std**2 + t**2
        features = torch.cat([c, -c.square().sum(-1, keepdim=True) / 2], -1)
        with uncast(z):
            return torch.cat([z * a, a**2], -1) / variance @ features.mT + self.mixture.weights.log(), variance

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity, eq. (3), `[*B, D]`: `Mixture.velocity` as two matrix products, without its `[*B, K, D]`."""
        logits, variance = self._logits(z, t)
        t = t[..., None]
        with uncast(z):
            mean = logits.softmax(-1) @ self.mixture.means
        return ((t - (1 - t) * self.std**2) * z - t * mean) / variance

    def covariance(self, z: Tensor, t: Tensor) -> Tensor:
        """The noise, eq. (3), `[*B, D, D]`: `Mixture.covariance` as one matrix product, without its `[*B, K, D, D]`.

        The second moment loses to the mean's square what both have in common: in float64, whatever the law's precision.
        """
        logits, variance = self._logits(z, t)
        c = self.mixture.means.double()
        square = (c[:, :, None] * c[:, None]).flatten(1)
        moments = logits.softmax(-1, dtype=torch.float64) @ torch.cat([c, square], -1)
        mean, second = moments[..., : self.dim], moments[..., self.dim :]
        spread = (second.reshape(*mean.shape, self.dim) - mean[..., None] * mean[..., None, :]).to(z.dtype)
        own = self.std**2 / variance[..., None] * torch.eye(self.dim, dtype=z.dtype, device=z.device)
        return own + (t[..., None] / variance).square()[..., None] * spread

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
        with uncast(x):
            return self.labels[(x @ c.mT - c.square().sum(-1) / 2).argmax(-1)]


@dataclass(frozen=True, repr=False, eq=False)
class Shifted(Value):
    """What `draw` gives, less a `shift`, over a `scale`."""

    draw: Draw
    shift: Tensor
    scale: Tensor

    def __call__(self, n: int, generator: Generator | None) -> Tensor:
        """`n` draws, `[n, D]`."""
        return (self.draw(n, generator) - self.shift) / self.scale


@dataclass(frozen=True, repr=False, eq=False)
class Among(Value):
    """Draws among the rows of `means` `[K, D]`, each as likely."""

    means: Tensor

    def __call__(self, n: int, generator: Generator | None) -> Tensor:
        """`n` draws, `[n, D]`."""
        return self.means[drawn(torch.randint, len(self.means), (n,), generator=generator, device=self.means.device)]


def standardised(mixture: Mixture, labels: Tensor, centres: Draw) -> Isotropic:
    """The law shifted and scaled to mean 0 and mean variance 1, both of them sums over the nodes.

    `mixture`: the nodes `[K, D]`, all of one standard deviation; `labels`: int64 `[K]`, the region of each; `centres`: `(n, generator)` to
    draws `[n, D]` of the law without its noise.
    """
    c, w, std = mixture.means, mixture.weights, mixture.stds[0, 0].item()
    shift = w @ c
    scale = ((w @ (c - shift).square()).mean() + std**2).sqrt()
    std = std / scale.item()
    return Isotropic(Mixture((c - shift) / scale, std, w), std, labels, Shifted(centres, shift, scale))


def modes(means: Tensor, std: float) -> Isotropic:
    """Equally likely Gaussians with `means` `[K, D]` and the standard deviation `std`, `standardised`; each mode is a region."""
    k = len(means)
    return standardised(Mixture(means, std), torch.arange(k), Among(means))
