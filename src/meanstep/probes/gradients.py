"""The trace of the covariance of a gradient, eq. (14), (40), (52): exact by single rows' gradients, or from a few independent batches.

Knows no optimiser: a loss's gradient before clipping and preconditioning.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap

from meanstep.auxiliary import Look
from meanstep.calls import called
from meanstep.loss import Loss, made, settled
from meanstep.probes.rows import Estimate, influenced, pieces
from meanstep.shapes import tree_map
from meanstep.terms import Term
from meanstep.types import Bridge, Objective, Weight
from meanstep.weights import constant


def of_rows(
    field: nn.Module, b: Bridge, objective: Objective, weight: Weight = constant, *, chunk: int = 64, vectorised: bool = True
) -> Estimate:
    """The trace of the covariance of one row's gradient, from the gradient of every row, eq. (40). For small networks.

    A batch of `n` rows has this over `n`. The weight is part of the loss, as in training. Two passes over the rows, the second about the
    mean of the first, keep the memory of `chunk` gradients. `vectorised` uses torch.func, which needs a field and an objective that it can
    transform (no head, no ensemble axis, no batch norm); otherwise rows are taken one by one. Turn dropout off. `ValueError` for an
    ensemble.
    """
    return _trace(field, b, Term(objective, None, weight), chunk, vectorised)


def _trace(field: nn.Module, b: Bridge, term: Term, chunk: int, vectorised: bool) -> Estimate:
    if b.t.ndim != 1:
        raise ValueError(f"single rows' gradients need one batch axis, got the batch shape {tuple(b.t.shape)}: probe one member")
    single = _vectorised(field, term) if vectorised else _one_by_one(field, term)
    n, mean = len(b.t), torch.zeros(1, dtype=torch.float64, device=b.z.device)
    for piece in pieces(b, chunk):
        mean = mean + single(piece).double().sum(0) / n
    square = torch.cat([(single(piece).double() - mean).square().sum(-1) for piece in pieces(b, chunk)])
    value = square.sum() / (n - 1)
    return influenced(value, square - square.mean())


def of_terms(field: nn.Module, draws: Sequence[tuple[Any, Bridge]], *, chunk: int = 64, vectorised: bool = True) -> Estimate:
    """The trace of the covariance of a step's gradient on the rows of `draws = loss.draw(x, ...)`, exact like `of_rows`.

    `chunk` and `vectorised` as of `of_rows`. The terms must share no rows.

    `ValueError` if a term follows the others on their rows (an anchor, a head): their gradients are correlated, use `of_step`. The same for
    an auxiliary loss of a layer, which a row alone does not show.
    """
    if any(one.layer is not None for term, _ in draws for one in term.beside):
        raise ValueError("an auxiliary loss of a layer is read in the step's own pass: measure the step with of_step")
    if sum(term.share for term, _ in draws) > 1 + 1e-9:
        raise ValueError("terms that take the same rows have correlated gradients: measure the step with of_step")
    n, parts = sum(len(b.t) for _, b in draws), []
    for term, b in draws:
        share = 1 / n if term.scale is None else term.scale / len(b.t)
        found = _trace(field, b, term, chunk, vectorised)
        parts.append(Estimate(share**2 * len(b.t) * found.value, share**2 * len(b.t) * found.error, found.dof))
    value, square, dof = (torch.stack(p) for p in zip(*parts, strict=True))
    total = square.square().sum()
    return Estimate(value.sum(), total.sqrt(), total.square() / (square**4 / dof.clamp(min=1)).sum())


def _vectorised(field: nn.Module, term: Term) -> Callable[[Bridge], Tensor]:
    """`bridge -> [n, parameters]`, all rows at once."""
    trained = {name: p.detach() for name, p in field.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in (*field.named_parameters(), *field.named_buffers()) if name not in trained}

    def row(params: dict[str, Tensor], parts: dict[str, Any], progress: Any, b: Bridge) -> Tensor:
        def net(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            found: Tensor = functional_call(field, (params, fixed), (z, r, t, y))
            return found

        return _losses(net, b._replace(**tree_map(lambda p: p[None], parts), progress=progress), term).sum()

    def single(b: Bridge) -> Tensor:
        found = vmap(grad(partial(row, b=b)), in_dims=(None, 0, None), randomness="different")(trained, b.rows, b.progress)
        return torch.cat([g.flatten(1) for g in found.values()], 1)

    return single


def _one_by_one(field: nn.Module, term: Term) -> Callable[[Bridge], Tensor]:
    params = [p for p in field.parameters() if p.requires_grad]

    def single(b: Bridge) -> Tensor:
        return torch.stack([_flat(_losses(field, row, term).sum(), params) for row in pieces(b, 1)])

    return single


def _losses(field: Any, b: Bridge, term: Term) -> Tensor:
    """The loss of each row as `Loss` has it; a term that looks at the velocity costs a pass for it."""
    regression, weight = term.objective(field, b), settled(term.weight, field, b)
    looks = term.inside is not None or term.beside
    return made(term, Look(called(field, b.z, b.r, b.t, b.y) if looks else regression.prediction, b), regression, weight, {}).weighted


def _flat(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, params, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(found, params, strict=True)])


# From batches ----------------------------------------------------------------------------------------------------------------------


def of_batches(loss: Callable[[int], Tensor], parameters: Iterable[Tensor], batches: int = 16) -> Estimate:
    """The trace of the covariance of the gradient of `loss(k)`, the 0-d loss of independent batch `k`, by `batches` backward passes.

    `parameters`: those that are trained. Unbiased from two batches on, `ValueError` for fewer. The standard error comes from the orthogonal
    contrasts of the gradients, eq. (52), and needs three. The number is skewed: use `positive_interval`. One gradient is kept in memory.
    """
    if batches < 2:
        raise ValueError(f"a variance needs two batches, got {batches}")
    params, contrasts = [p for p in parameters if p.requires_grad], []
    mean = [p.detach() for p in _gradients(loss(0), params)]
    for k in range(1, batches):
        square = torch.zeros((), dtype=torch.float64, device=mean[0].device)
        for m, g in zip(mean, _gradients(loss(k), params), strict=True):
            square += (g - m).double().square().sum() * k / (k + 1)
            m += (g - m) / (k + 1)
        contrasts.append(square)
    found = torch.stack(contrasts)
    estimate = influenced(found.mean(), found - found.mean())
    return estimate if batches > 2 else estimate._replace(error=torch.full_like(estimate.error, float("nan")))


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.clone() for g, p in zip(found, params, strict=True)]


def of_step(
    loss: Loss,
    field: nn.Module,
    x: Tensor,
    y: Any = None,
    *,
    noise: Tensor | None = None,
    mask: Tensor | None = None,
    splits: int = 16,
    progress: float | Tensor | None = None,
    generator: Generator | None = None,
) -> Estimate:
    """The trace of the covariance of a training step's gradient on the batch `x` `[B, *E]`, from `splits` parts of it, eq. (52).

    `progress` as `Loss` takes it. `ValueError` for fewer rows than `splits`, or an ensemble.

    Costs about one step. The whole loss, with all terms and weights, is computed on each part, so a part needs a row for every term. Rows
    that do not fill a part are left out; `noise`, `mask`: as `Loss` takes them. The covariance is over data, noise and times. Rows drawn
    without replacement count as independent.
    """
    rows = len(x) // splits
    if rows < 1 or loss.batch_dims != 1:
        raise ValueError(f"a batch of shape {tuple(x.shape)} with {loss.batch_dims} batch axes has no {splits} parts along its first axis")
    generator = generator or Generator().manual_seed(0)

    def part(k: int) -> Tensor:
        piece = slice(k * rows, (k + 1) * rows)
        labels, e, kept = tree_map(lambda p: p[piece], (y, noise, mask))
        found: Tensor = loss(field, x[piece], labels, noise=e, mask=kept, progress=progress, generator=generator).loss
        return found

    found = of_batches(part, field.parameters(), splits)
    return found._replace(value=found.value * rows / len(x), error=found.error * rows / len(x))
