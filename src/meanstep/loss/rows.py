"""What one term made of its rows, and what they count for in the loss."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from meanstep.auxiliary import Look
from meanstep.calls import real, wrong_shape
from meanstep.objectives import Matching
from meanstep.shapes import per_sample
from meanstep.terms import Term
from meanstep.types import Bridge, Regression, Weight
from meanstep.values import record
from meanstep.velocities import auxiliary


class Rows(NamedTuple):
    """What one term made of its rows: the regression, its raw error `[*B]`, and the term's weight, answered where it asked the field.

    `inside`: what is added to the error under the weight, `beside`: to the weighted loss, `[*B]`.
    """

    term: Term
    bridge: Bridge
    regression: Regression
    error: Tensor
    weight: Weight
    inside: Tensor | None = None
    beside: Tensor | None = None

    @property
    def measured(self) -> Tensor:
        """What the weight sees of each row, `[*B]`."""
        return self.error if self.inside is None else self.error + self.inside

    @property
    def weighted(self) -> Tensor:
        """The loss of each row, `[*B]`."""
        own = self.weight(self.measured, self.bridge)
        return own if self.beside is None else own + self.beside

    def __repr__(self) -> str:
        return record(self)


def made(term: Term, look: Look, regression: Regression, weight: Weight, hidden: dict[nn.Module, Tensor]) -> Rows:
    """A term's rows from what it regressed and looked at; `weight`: the term's, answered; `hidden`: what layers returned for the rows.

    `ValueError` for a regression of another shape, and for a layer of an auxiliary loss that `hidden` lacks.
    """
    b = look.bridge
    shape, wanted = real(regression.prediction, "the objective").shape, real(regression.target, "the target velocity").shape
    if shape != b.z.shape:
        raise ValueError(wrong_shape(shape, b.z))
    if wanted != b.z.shape:
        raise ValueError(f"the target velocity has shape {tuple(wanted)} for samples of shape {tuple(b.z.shape)}")
    error = per_sample((regression.prediction.to(b.z) - regression.target.to(b.z)).square(), b.t, b.mask)
    if term.inside is None and not term.beside:
        return Rows(term, b, regression, error, weight)
    goal = regression.target - (regression.prediction - look.velocity).detach()
    inside = None if term.inside is None else term.inside(look.velocity, goal, b)
    beside = [one(look._replace(hidden=_of(hidden, one.layer))) for one in term.beside]
    return Rows(term, b, regression, error, weight, inside, torch.stack(beside).sum(0) if beside else None)


def _of(hidden: dict[nn.Module, Tensor], layer: nn.Module | None) -> Tensor | None:
    if layer is not None and layer not in hidden:
        what = f"the layer {type(layer).__name__} of an auxiliary loss was not met in the pass that carries the gradient"
        raise ValueError(f"{what}: give a module of the field that is trained, and a recipe without gradient through the derivative")
    return None if layer is None else hidden[layer]


def share(rows: Rows, n: int) -> float:
    """What one row counts for in the loss of a batch of `n`: `scale` over the term's rows, by default one n-th."""
    return 1 / n if rows.term.scale is None else rows.term.scale / rows.error.shape[-1]


def part(rows: Rows, n: int) -> Tensor:
    """A term's part of the loss, summed over members; a row without an entry counts nothing, whatever its weight makes of 0."""
    loss = rows.weighted if rows.bridge.mask is None else torch.where(filled_rows(rows), rows.weighted, 0.0)
    return loss.sum() * share(rows, n)


def filled_rows(rows: Rows) -> Tensor:
    """The rows with an entry that counts, `[*B]`."""
    mask = rows.bridge.mask
    return torch.ones_like(rows.error, dtype=torch.bool) if mask is None else mask.reshape(*rows.error.shape, -1).any(-1)


def reads_head(term: Term) -> bool:
    """Whether a term regresses the auxiliary head."""
    return isinstance(term.objective, Matching) and term.objective.read is auxiliary


def shows_the_same(a: Term, b: Term) -> bool:
    """Whether two terms give the field the same inputs on the same rows."""
    given = [getattr(term.objective, "given", None) for term in (a, b)]
    return a.times is not None and a.prepare is b.prepare and given[0] is not None and given[0] is given[1]
