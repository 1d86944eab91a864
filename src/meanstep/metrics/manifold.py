"""Fidelity and diversity apart: precision, recall, density and coverage by nearest neighbours of features `[n, D]`. Knows no images."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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
