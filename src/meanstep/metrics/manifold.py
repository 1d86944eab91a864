"""By nearest neighbours of features `[n, D]`: precision, recall, density, coverage, and whether rows are copies. Knows no images."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NEAR = 0.01
"""The share of real rows whose nearest neighbour is as near as that of a row that counts as copied."""
STEPS = 2.0
"""Distinct rows of a lattice, of which some lie within so many steps of one another, say nothing about copies."""
ENTRIES = 1 << 22
"""Distances held at a time."""


class PrecisionRecall(NamedTuple):
    """The share of generated rows within the real manifold, and of real rows within the generated one."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How many real balls a generated row lies in, over `k`, and the share of real balls that hold a generated row."""

    density: float
    coverage: float


class Nearest(NamedTuple):
    """How near generated rows lie to real ones, beside how near those lie to each other, with standard errors.

    `ratio`: of the mean distances to the nearest real row, 1 for fresh rows of the same law, less for copies, more off the data; nan where
    real rows have no distance. `copies`: the share of rows as near to a real one as only the nearest `NEAR` of these are to each other;
    `floor`: that share of real rows themselves, more than `NEAR` where many are repeated. Both are nan where real rows are distinct points
    that lie densely on a lattice: there a fresh row may well be equal to a known one.
    """

    ratio: float
    error: float
    copies: float
    copies_error: float
    floor: float


def _pair(fake: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if fake.ndim != 2 or real.ndim != 2 or fake.shape[-1] != real.shape[-1]:
        raise ValueError(f"two sets of features of one dimension are needed, got {tuple(fake.shape)} and {tuple(real.shape)}")
    if not 1 <= k < min(len(fake), len(real)):
        raise ValueError(f"the k-th neighbour needs 1 <= k < rows, got k = {k} of {len(fake)} and {len(real)} rows")
    if not (fake.isfinite().all() and real.isfinite().all()):
        raise ValueError("features have entries that are not finite")
    real = real.detach().double()
    center = real.mean(0)  # shorter vectors, so that the expanded square below loses fewer digits
    return fake.detach().to(real) - center, real - center


def _squares(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Squared distances, blocks `[rows, m]` of `[n, m]`; those within the rounding of the expanded square are 0, so equal rows are."""
    norms = y.square().sum(-1)
    for block in torch.split(x, max(1, ENTRIES // len(y))):
        scale = block.square().sum(-1, keepdim=True) + norms
        square = torch.addmm(scale, block, y.mT, alpha=-2)
        yield square.masked_fill_(square < 64 * torch.finfo(square.dtype).eps * scale, 0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th neighbour, itself not counted, `[n]`."""
    return torch.cat([square.kthvalue(k + 1).values for square in _squares(x, x)])


def _inside(x: Tensor, y: Tensor, radii: Tensor) -> float:
    """The share of rows of `x` that lie in a ball of `y`."""
    return sum(int((square <= radii).any(-1).sum()) for square in _squares(x, y)) / len(x)


def precision_recall(fake: Tensor, real: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of `fake` `[n, D]` against `real` `[m, D]`: a manifold is the union of balls to the `k`-th neighbour.

    Both depend on the numbers of rows: compare equal ones only. `ValueError` for features that do not match. Source: arXiv 1904.06991.
    """
    fake, real = _pair(fake, real, k)
    return PrecisionRecall(_inside(fake, real, _radii(real, k)), _inside(real, fake, _radii(fake, k)))


def density_coverage(fake: Tensor, real: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage of `fake` `[n, D]` against `real` `[m, D]`, with balls around real rows only: an outlier in `fake` makes none.

    The balls reach to the `k`-th neighbour, 5. Density can exceed 1. `ValueError` for features that do not match. Source: arXiv 2002.09797.
    """
    fake, real = _pair(fake, real, k)
    radii, hits, covered = _radii(real, k), 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for square in _squares(fake, real):
        inside = square <= radii
        hits += int(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(hits / (k * len(fake)), covered.double().mean().item())


def nearest_apart(real: Tensor) -> Tensor:
    """Distance of each row of `real` `[m, D]` to the nearest other one, `[m]` float64. `ValueError` for features that are not finite."""
    return _radii(_pair(real, real, 1)[1], 1).sqrt()


def nearest(fake: Tensor, real: Tensor, apart: Tensor | None = None) -> Nearest:
    """Whether `fake` `[n, D]` are copies of `real` `[m, D]`: distances to the nearest real row, against those of each real row
    to the nearest other one.

    A row left out is as good as a fresh one, so nothing need be held out. `apart`: `nearest_apart(real)`, if it is there already.
    `ValueError` for features that do not match. Source: the authenticity of arXiv 2102.08921, by a quantile.
    """
    apart = nearest_apart(real) if apart is None else apart
    fake, real = _pair(fake, real, 1)
    far = torch.cat([square.amin(-1) for square in _squares(fake, real)]).sqrt()
    edge = apart.sort().values[max(0, round(NEAR * len(apart)) - 1)]
    copied, floor = ((d <= edge).double() for d in (far, apart))
    if edge > 0 and edge <= STEPS * _step(real):
        copied, floor = copied * torch.nan, floor * torch.nan
    p, q, usual, n, m = copied.mean(), floor.mean(), apart.mean(), len(far), len(apart)
    spread = (far.var() / n + (far.mean() / usual) ** 2 * apart.var() / m).sqrt() / usual
    error = (p * (1 - p) / n + q * (1 - q) / m).sqrt()
    return Nearest((far.mean() / usual).item(), spread.item(), p.item(), error.item(), q.item())


def _step(x: Tensor) -> float:
    """The longest step of a lattice that rows `[n, D]` lie on, over its columns; 0 where some column takes values as they come.

    A column is one of a lattice if its values repeat, or lie at multiples of their smallest distance.
    """
    longest = 0.0
    for column in x.T:
        values = column.unique()
        if len(values) < 2:
            continue
        gaps = values.diff()
        multiples = gaps / gaps.min()
        if 2 * len(values) > len(column) and bool(((multiples - multiples.round()).abs() > 0.01).any()):
            return 0.0
        longest = max(longest, gaps.min().item())
    return longest
