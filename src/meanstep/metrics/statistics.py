"""Mean and covariance of a stream of features `[n, D]`, and the Frechet distance between two of them. Knows no images and no networks."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


class Statistics:
    """Count, mean `[D]` and scatter `[D, D]` (sum of outer products of deviations) of the rows seen so far, in float64.

    Batches are joined by the pairwise update of Chan, Golub and LeVeque, Am. Stat. 37, 1983: no large sums are subtracted, so features far
    from 0 lose no digits. The order of the rows changes the last digits only. `dim`: `D`, from 1, `ValueError` otherwise; `device`: where
    the sums lie.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ValueError(f"features have at least one dimension, got {dim}")
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def __repr__(self) -> str:
        return f"Statistics({self.n} rows of {len(self.mean)} features)"

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance `[D, D]`; `ValueError` with fewer than two rows."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.n}")
        return self.scatter / (self.n - 1)

    def update(self, features: Tensor) -> Self:
        """Take in rows `[n, D]`; `ValueError` for another shape or entries that are not finite."""
        if features.ndim != 2 or features.shape[-1] != self.dim:
            raise ValueError(f"features must be [n, {self.dim}], got {tuple(features.shape)}")
        if not len(features):
            return self
        if not features.isfinite().all():
            raise ValueError(f"features have entries that are not finite, the first in row {(~features.isfinite()).any(-1).int().argmax()}")
        x = features.detach().to(self.mean)
        n, mean = len(x), x.mean(0)
        d = mean - self.mean
        rows = torch.cat([x - mean, d[None] * (self.n * n / (self.n + n)) ** 0.5])  # the shift of the mean is one more row
        self.scatter.addmm_(rows.mT, rows)
        return self._moved(n, d)

    def merge(self, *others: "Statistics") -> "Statistics":
        """The statistics of all rows together; the parts stay as they are. `ValueError` for another dimension."""
        total = Statistics(self.dim, self.mean.device)
        for part in (self, *others):
            if part.dim != self.dim:
                raise ValueError(f"statistics of {self.dim} and of {part.dim} dimensions cannot be merged")
            if part.n:
                total._join(part.n, part.mean.to(total.mean), part.scatter.to(total.mean))
        return total

    def reduce(self, total: Callable[[Tensor], Tensor]) -> "Statistics":
        """The statistics of all processes, given `total`, which adds a tensor up over them (an all-reduce); two calls of it."""
        count = torch.full_like(self.mean[:1], self.n)
        sums = total(torch.cat([count, count * self.mean]))
        merged = Statistics(self.dim, self.mean.device)
        if (n := round(sums[0].item())) == 0:
            return merged
        mean = sums[1:] / n
        d = self.mean - mean
        merged._join(n, mean, total(self.scatter + self.n * torch.outer(d, d)))
        return merged

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> Self:
        d = mean - self.mean
        self.scatter.add_(scatter).addr_(d, d, alpha=self.n * n / (self.n + n))
        return self._moved(n, d)

    def _moved(self, n: int, d: Tensor) -> Self:
        self.mean += d * (n / (self.n + n))
        self.n += n
        return self


def root(covariance: Tensor) -> Tensor:
    """`A` `[D, rank]` with `A A^T = covariance`: eigenvectors times the roots of their eigenvalues.

    Eigenvalues below `D eps` of the largest are rounding noise around 0 and are left out; their square roots would not be small.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()


def frechet(a: Statistics, b: Statistics) -> float:
    """`|mu_a - mu_b|^2 + tr A + tr B - 2 tr (A B)^(1/2)` of `a` and `b`: the squared 2-Wasserstein distance of two Gaussians, float64.

    The last trace is the sum of the singular values of `A^(1/2)T B^(1/2)`, so no root of a product that is not symmetric is taken, and
    singular covariances (fewer rows than dimensions) are as accurate as others. With the features of Inception this is the FID; it is
    biased upwards by about 1/n. `ValueError` for two dimensions that differ, fewer than two rows, or numbers that are not finite.
    Sources: Dowson and Landau, J. Multivar. Anal. 12, 1982; arXiv 1706.08500.
    """
    if a.dim != b.dim:
        raise ValueError(f"the features have {a.dim} and {b.dim} dimensions: they must come from one extractor")
    (mu, A), (nu, B) = ((s.mean, s.covariance) for s in (a, b))
    nu, B = nu.to(mu), B.to(A)
    if not all(x.isfinite().all() for x in (mu, A, nu, B)):
        raise ValueError("means and covariances must be finite")
    cross = torch.linalg.svdvals(root(A).mT @ root(B)).sum()
    return ((mu - nu).square().sum() + A.trace() + B.trace() - 2 * cross).item()
