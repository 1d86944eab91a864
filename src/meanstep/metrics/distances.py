"""Distances between two sets of points `[n, D]`, and the coverage of modes. Knows no distributions, only their samples."""

import math
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meanstep.keys import drawn


def directions(dim: int, n: int = 128, generator: Generator | None = None) -> Tensor:
    """`n` unit vectors, `[n, dim]`, float64: in the plane even on the half circle and without randomness, otherwise drawn uniformly.

    `dim` and `n` from 1, `ValueError` otherwise; 128 directions.
    """
    if dim < 1 or n < 1:
        raise ValueError(f"directions need dim >= 1 and n >= 1, got {dim} and {n}")
    if dim == 2:
        angle = torch.arange(n, dtype=torch.float64) * math.pi / n
        return torch.stack([angle.cos(), angle.sin()], -1)
    return torch.nn.functional.normalize(drawn(torch.randn, n, dim, generator=generator, dtype=torch.float64, device="cpu"), dim=-1)


def _points(name: str, x: Tensor) -> Tensor:
    """Points as float32 or float64, without a graph."""
    if x.ndim != 2 or not len(x):
        raise ValueError(f"{name} must be points [n, D], got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name} has entries that are not finite, the first in row {(~x.isfinite()).any(-1).int().argmax()}")
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


class Sliced:
    """The sliced Wasserstein-1 distance, eq. (38), to a `reference` `[n, D]` along `directions` `[m, D]`; its projections are sorted once.

    A distance has the unit of the data. `ValueError` for shapes that do not fit, or entries that are not finite.
    """

    def __init__(self, reference: Tensor, directions: Tensor) -> None:
        if directions.ndim != 2 or directions.shape[-1] != reference.shape[-1]:
            raise ValueError(f"directions {tuple(directions.shape)} do not fit points {tuple(reference.shape)}: expected [m, D] and [n, D]")
        reference = _points("the reference", reference)
        self.shape, self.directions = reference.shape, directions.to(reference)
        self.sorted = self._sorted(reference)

    def __repr__(self) -> str:
        return f"Sliced({self.shape[0]} points in {self.shape[1]} dimensions, {len(self.directions)} directions)"

    def _sorted(self, x: Tensor) -> Tensor:
        """Sorted projections, `[m, n]`, on the CPU: there numpy sorts float32 several times faster than torch."""
        projections: np.ndarray[tuple[int, ...], np.dtype[np.floating]] = (self.directions @ x.mT).cpu().numpy()
        projections.sort(axis=-1)
        return torch.from_numpy(projections)

    def __call__(self, x: Tensor) -> float:
        """Mean over directions of the mean absolute difference of the sorted projections; `ValueError` unless `x` is `[n, D]` too."""
        return self.both(x)[0]

    def both(self, x: Tensor) -> tuple[float, float]:
        """The sliced distances of `x` of order 1 and 2, the second the root of the mean squared difference: one sorting for both."""
        if x.shape != self.shape:
            raise ValueError(f"the points {tuple(x.shape)} must have the shape of the reference, {tuple(self.shape)}")
        apart = self._sorted(_points("x", x).to(self.directions)) - self.sorted
        return apart.abs().mean().item(), apart.square().mean().sqrt().item()


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """The sliced Wasserstein-1 distance, eq. (38), of two sets of equally many points, `x` and `y` `[n, D]`, along `directions`
    `[m, D]`; a number of the data's unit. `ValueError` for shapes that do not fit, or entries that are not finite.
    """
    return Sliced(y, directions)(x)


def _mean_distance(x: Tensor, y: Tensor, pairs: int, rows: int = 1024) -> float:
    """Sum of `|x_i - y_j|` over `pairs`, in float64, a block of rows at a time; exact differences, so that `|x_i - x_i| = 0`."""
    blocks = (torch.cdist(b, y, compute_mode="donot_use_mm_for_euclid_dist").sum(dtype=torch.float64) for b in torch.split(x, rows))
    return sum(block.item() for block in blocks) / pairs


def energy_distance(x: Tensor, y: Tensor) -> float:
    """`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, eq. (39), of `x` `[n, D]` and `y` `[m, D]`, without bias: 0 in expectation at equal laws.

    It can be negative. `ValueError` for fewer than two points, or of two dimensions, or that are not finite. Source: Szekely and Rizzo, J.
    Stat. Plan. Inference 143, 2013.
    """
    x, y = _points("x", x), _points("y", y)
    (n, d), (m, e) = x.shape, y.shape
    if d != e or min(n, m) < 2:
        raise ValueError(f"two sets of at least 2 points of one dimension are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
    y = y.to(x)
    return 2 * _mean_distance(x, y, n * m) - _mean_distance(x, x, n * (n - 1)) - _mean_distance(y, y, m * (m - 1))


def mode_coverage(found: Tensor, expected: Tensor, total: int | None = None) -> float:
    """`sum_k min(p_k, q_k)`, in [0, 1]: 1 minus the total variation distance between the shares of the regions.

    `found` `[K]`: how many samples lie in each region, those off the support left out; `total`: the number of all samples, so that those
    off the support lower the result (by default they are taken to be none). `expected` `[K]`: counts or shares of the law, normalised here.
    `ValueError` for two shapes, negative counts, or more found than `total`.
    """
    if found.ndim != 1 or found.shape != expected.shape:
        raise ValueError(f"found and expected must have the same shape [K], got {tuple(found.shape)} and {tuple(expected.shape)}")
    p, q = found.double(), expected.double()
    total = int(p.sum()) if total is None else total
    if (p < 0).any() or (q < 0).any() or q.sum() <= 0 or total <= 0 or p.sum() > total:
        raise ValueError(f"counts must be at least 0, not all 0, and at most {total} in all, got {found.tolist()} and {expected.tolist()}")
    return torch.minimum(p / total, q / q.sum()).sum().item()


class Coverage:
    """Mode coverage of samples `[N, D]` against `data` `[M, D]` of a law with `regions`, a `region` and a `log_density` of points.

    A point counts if its log density is above the 0.5 percent quantile of the data's; `n`: at most so many rows of either are taken.
    """

    def __init__(self, law: Any, data: Tensor, n: int = 4096) -> None:
        self.law, self.n = law, n
        density = law.log_density(data[:n])
        self.threshold = torch.quantile(density.double(), 0.005)
        self.expected = torch.bincount(law.region(data[:n]), minlength=law.regions)

    def __call__(self, x: Tensor) -> float:
        """The overlap of the shares of `x` `[N, D]`, in [0, 1], see `mode_coverage`."""
        x = x[: self.n]
        on = x[self.law.log_density(x) >= self.threshold]
        return mode_coverage(torch.bincount(self.law.region(on), minlength=self.law.regions), self.expected, len(x))
