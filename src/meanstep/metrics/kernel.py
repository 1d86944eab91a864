"""Unbiased squared maximum mean discrepancies of features `[n, D]`: of the cubic kernel (KID), and the energy distance. Knows no images."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from meanstep.keys import drawn

ENTRIES = 1 << 22
"""Entries of a kernel matrix held at a time."""


Kernel = Callable[[Tensor, Tensor], Tensor]
"""From `[n, D]` and `[m, D]` to `[n, m]`."""


class Estimate(NamedTuple):
    """A value and its standard error, or the spread (standard deviation) of the subsets it is the mean of."""

    value: float
    error: float


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[-1] != y.shape[-1] or min(len(x), len(y)) < 2:
        raise ValueError(f"two sets of at least 2 features of one dimension are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features have entries that are not finite")
    return x.detach().double(), y.detach().to(x.device, torch.float64)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """`k(x, y) = (x.y / D + 1)^3`, `[n, m]`, in place."""
    return torch.addmm(x.new_ones(()), x, y.mT, alpha=1 / x.shape[-1]).pow_(3)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """`k(x, y) = -|x - y|`, `[n, m]`, whose discrepancy is the energy distance."""
    return torch.cdist(x, y).neg_()


def _sums(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """`sum_j k(x_i, y_j)`, `[n]`, a block of rows at a time."""
    rows = max(1, ENTRIES // len(y))
    return torch.cat([kernel(block, y).sum(-1) for block in torch.split(x, rows)])


def _columns(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Sums of the kernel matrix over its columns, `[n]`, and over its rows, `[m]`; each entry computed once."""
    along, across = [], y.new_zeros(len(y))
    for block in torch.split(x, max(1, ENTRIES // len(y))):
        k = kernel(block, y)
        along.append(k.sum(-1))
        across += k.sum(0)
    return torch.cat(along), across


def _own(x: Tensor, kernel: Kernel, diagonal: Tensor) -> Tensor:
    """`sum_{j != i} k(x_i, x_j) / (n - 1)`, `[n]`."""
    return (_sums(x, x, kernel) - diagonal) / (len(x) - 1)


def _unbiased(x: Tensor, y: Tensor, kernel: Kernel, diagonal: Callable[[Tensor], Tensor]) -> Estimate:
    """`E k(x, x') + E k(y, y') - 2 E k(x, y)`, and the error of the U-statistic's linear part; `diagonal`: `k(x_i, x_i)` `[n]`."""
    xy, yx = _columns(x, y, kernel)
    g, h = _own(x, kernel, diagonal(x)) - xy / len(y), _own(y, kernel, diagonal(y)) - yx / len(x)
    variance = 4 * (g.var() / len(x) + h.var() / len(y))
    return Estimate((g.mean() + h.mean()).item(), variance.sqrt().item())


def mmd(x: Tensor, y: Tensor) -> Estimate:
    """Unbiased `E k(x, x') + E k(y, y') - 2 E k(x, y)` of all rows `[n, D]`, `[m, D]`, and its standard error; float64.

    What every KID estimates; it can be negative. The error is that of a U-statistic's linear part; at equal laws, where the linear part
    vanishes, it is too wide by up to a factor of the square root of 2. `ValueError` for features that do not match or are not finite.
    Source: arXiv 1801.01401, and Gretton et al., JMLR 13, 2012.
    """
    return _unbiased(*_pair(x, y), _cubic, lambda x: (x.square().sum(-1) / x.shape[-1] + 1) ** 3)


def energy(x: Tensor, y: Tensor) -> Estimate:
    """The energy distance `2 E|X - Y| - E|X - X'| - E|Y - Y'|` of `[n, D]` and `[m, D]`, without bias, and its standard error; float64.

    `energy_distance` with an error, and by matrix products: good to some 1e-7 of the rows' own size. It is the discrepancy of the kernel
    `-|x - y|`, so the error is as in `mmd`. `ValueError` as there. Source: Sejdinovic et al., Ann. Stat. 41, 2013.
    """
    x, y = _pair(x, y)
    center = y.mean(0)
    return _unbiased(x - center, y - center, _apart, lambda x: x.new_zeros(len(x)))


def subsets(n: int, m: int, *, size: int = 1000, count: int = 100, generator: Generator) -> Iterable[tuple[Tensor, Tensor]]:
    """`count` pairs of row numbers, `[size]` of `n` and `[size]` of `m`, none twice. `ValueError` for too few rows."""
    if not 2 <= size <= min(n, m) or count < 1:
        raise ValueError(f"subsets of {size} need at least 2 and at most {min(n, m)} rows, and at least one subset, got {count}")

    def rows(count: int) -> Tensor:
        return drawn(torch.randperm, count, generator=generator, device="cpu")[:size]

    return ((rows(n), rows(m)) for _ in range(count))


def kid(x: Tensor, y: Tensor, draws: Iterable[tuple[Tensor, Tensor]]) -> Estimate:
    """Mean and spread (not a standard error) of the unbiased estimate over subsets of rows, as KID is published; arXiv 1801.01401.

    `draws`: pairs of row numbers, `subsets(len(x), len(y), generator=...)`. The spread is the subsets' standard deviation with divisor n.
    `ValueError` for no subset, or features that do not match or are not finite.
    """
    x, y = _pair(x, y)
    values = torch.tensor([mmd(x[i], y[j]).value for i, j in draws], dtype=torch.float64)
    if not len(values):
        raise ValueError("at least one subset is needed")
    return Estimate(values.mean().item(), values.std(correction=0).item())
