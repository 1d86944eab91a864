"""What to log of a step: raw residuals, never only the weighted loss; `docs/conventions.md` explains each."""

from collections.abc import Callable

import torch
from torch import Tensor

from meanstep.loss.rows import Rows, filled_rows, reads_head, share
from meanstep.objectives import Matching
from meanstep.shapes import per_sample
from meanstep.weights import slope

GAPS = (0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def metrics_of(rows: list[Rows], n: int, slopes: bool = True) -> dict[str, Tensor]:
    """Raw residuals, never only the weighted loss; `docs/conventions.md` explains each. `slopes`: also those that need the weights'."""

    def joined(f: Callable[[Rows], Tensor]) -> Tensor:
        return f(rows[0]) if len(rows) == 1 else torch.cat([f(row) for row in rows], -1)

    gap, error, filled = joined(lambda row: row.bridge.gap), joined(lambda row: row.error), joined(filled_rows)
    head = joined(lambda row: torch.full_like(row.error, reads_head(row.term), dtype=torch.bool))
    match = joined(lambda row: torch.full_like(row.error, isinstance(row.term.objective, Matching), dtype=torch.bool))
    still, moving = filled & ~head & (match | (gap == 0)), filled & ~match & (gap > 0)
    edges = [gap <= high for high in GAPS]
    bins = [a & ~b for a, b in zip(edges[1:], edges, strict=False)]
    binned = [moving & part for part in (edges[0], *bins)]
    found = _mean(error, torch.stack([filled, still, moving, *binned]))
    names = ("residual", "residual_diagonal", "residual_gap", *(f"residual_gap_{high:g}" for high in GAPS))
    out = dict(zip(names, found.unbind(0), strict=True))
    if any(reads_head(row.term) for row in rows):
        out["residual_head"] = _mean(error, filled & head)
    if any(row.beside is not None for row in rows):
        out["auxiliary"] = _mean(joined(lambda row: torch.zeros_like(row.error) if row.beside is None else row.beside), filled)
    if slopes:
        weight = joined(lambda row: slope(row.weight, row.measured, row.bridge))
        at_zero = joined(lambda row: slope(row.weight, torch.zeros_like(row.error), row.bridge))
        out["saturated"] = _mean((weight < 0.1 * at_zero).to(error), filled)
        pull = torch.where(filled, weight * error.sqrt() * joined(lambda row: torch.full_like(row.error, share(row, n))), 0.0)
        out["effective_rows"] = pull.sum(-1).square() / (pull.square().sum(-1) * filled.sum(-1))
    if moved := [row for row in rows if row.regression.tangent is not None]:
        sizes = torch.cat([_squares(row) for row in moved], -1)
        here = torch.cat([filled_rows(row) & (row.bridge.gap > 0) for row in moved], -1)
        change, average, tangent, noise = _mean(sizes, here).unbind(0)
        out |= {"change_ratio": (change / average).sqrt(), "tangent_rms": tangent.sqrt(), "tangent_noise": noise}
    return out


def _squares(row: Rows) -> Tensor:
    """Mean squares of the change, the average velocity, the tangent, and what the tangent keeps out, `[4, *B]`."""
    b, (prediction, _, average, tangent) = row.bridge, row.regression
    assert average is not None and tangent is not None
    return torch.stack([per_sample(q.to(b.z).square(), b.t, b.mask) for q in (prediction - average, average, tangent, b.v - tangent)])


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Mean over the last axis where true, nan where nothing is."""
    return torch.where(where, x, 0.0).sum(-1) / where.sum(-1)
