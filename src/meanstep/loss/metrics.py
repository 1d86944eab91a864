"""What to log of a step: raw residuals, never only the weighted loss; `docs/conventions.md` explains each."""

from collections.abc import Callable

import torch
from torch import Tensor

from meanstep.loss.rows import Rows, filled_rows, reads_head, share
from meanstep.objectives import Matching
from meanstep.shapes import per_sample

GAPS = (0.25, 0.5, 0.75, 1.0)


@torch.enable_grad()
def _slope(rows: Rows, error: Tensor) -> Tensor:
    """The derivative of each row's loss in its error: the effective weight."""
    leaf = error.detach().requires_grad_()
    return torch.autograd.grad(rows.weight(leaf, rows.bridge).sum(), leaf)[0]


@torch.no_grad()
def metrics_of(rows: list[Rows], n: int) -> dict[str, Tensor]:
    """Raw residuals, never only the weighted loss; `docs/conventions.md` explains each."""

    def joined(f: Callable[[Rows], Tensor]) -> Tensor:
        return torch.cat([f(row) for row in rows], -1)

    gap, error, filled = joined(lambda row: row.bridge.gap), joined(lambda row: row.error), joined(filled_rows)
    head = joined(lambda row: torch.full_like(row.error, reads_head(row.term), dtype=torch.bool))
    match = joined(lambda row: torch.full_like(row.error, isinstance(row.term.objective, Matching), dtype=torch.bool))
    moving = filled & ~match & (gap > 0)
    out = {
        "residual": _mean(error, filled),
        "residual_diagonal": _mean(error, filled & ~head & (match | (gap == 0))),
        "residual_gap": _mean(error, moving),
    }
    for low, high in zip((0.0, *GAPS), GAPS, strict=False):
        out[f"residual_gap_{high:g}"] = _mean(error, moving & (gap > low) & (gap <= high))
    if any(reads_head(row.term) for row in rows):
        out["residual_head"] = _mean(error, filled & head)
    if any(row.beside is not None for row in rows):
        out["auxiliary"] = _mean(joined(lambda row: torch.zeros_like(row.error) if row.beside is None else row.beside), filled)
    if not torch.is_inference_mode_enabled():  # the weights' slopes are derivatives
        weight, at_zero = joined(lambda row: _slope(row, row.measured)), joined(lambda row: _slope(row, torch.zeros_like(row.error)))
        out["saturated"] = _mean((weight < 0.1 * at_zero).to(error), filled)
        pull = torch.where(filled, weight * error.sqrt() * joined(lambda row: torch.full_like(row.error, share(row, n))), 0.0)
        out["effective_rows"] = pull.sum(-1).square() / (pull.square().sum(-1) * filled.sum(-1))
    if moved := [row for row in rows if row.regression.tangent is not None]:
        change, average, tangent, noise = (torch.cat([q[k] for q in map(_squares, moved)], -1) for k in range(4))
        here = torch.cat([filled_rows(row) & (row.bridge.gap > 0) for row in moved], -1)
        out["change_ratio"] = (_mean(change, here) / _mean(average, here)).sqrt()
        out["tangent_rms"] = _mean(tangent, here).sqrt()
        out["tangent_noise"] = _mean(noise, here)
    return out


def _squares(row: Rows) -> list[Tensor]:
    b, (prediction, _, average, tangent) = row.bridge, row.regression
    assert average is not None and tangent is not None
    return [per_sample(q.to(b.z).square(), b.t, b.mask) for q in (prediction - average, average, tangent, b.v - tangent)]


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Mean over the last axis where true, nan where nothing is."""
    return torch.where(where, x, 0.0).sum(-1) / where.sum(-1)
