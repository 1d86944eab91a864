"""What a term's weight makes of the rows' residuals, and how much each pulls on the gradient."""

import torch
from torch import Tensor

from meanstep import probes
from meanstep.loss import settled
from meanstep.probes.rows import pieces
from meanstep.program.diagnose.case import Case
from meanstep.shapes import event_size
from meanstep.terms import Term
from meanstep.types import Bridge


def pull(case: Case, term: Term, b: Bridge, table: probes.Table, chunk: int) -> probes.Table:
    """`error`: mean squared residual; `value`: its loss; `slope`, `zero`: the weight there and at no error; `pull`: on the gradient."""
    errors = (table.columns["residual"] / event_size(b.z, b.t)).to(b.t)
    rows = [_weighed(case, term, p, error) for p, error in zip(pieces(b, chunk), errors.split(chunk), strict=True)]
    value, here, zero = (torch.cat(parts) for parts in zip(*rows, strict=True))
    share = 1.0 if term.scale is None else term.scale / term.share
    columns = {"error": errors, "value": value, "slope": here, "zero": zero, "pull": share * here * errors.sqrt()}
    return probes.Table(b.r, b.t, {name: p.double() for name, p in columns.items()})


@torch.enable_grad()
def _weighed(case: Case, term: Term, b: Bridge, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of rows with these errors, and the weight there and at no error."""
    weight = settled(term.weight, case.probed.field, b)

    def slope(at: Tensor) -> tuple[Tensor, Tensor]:
        leaf = at.detach().requires_grad_()
        value = weight(leaf, b)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    return *slope(error), slope(torch.zeros_like(error))[1]
