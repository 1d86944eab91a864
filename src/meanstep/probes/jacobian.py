"""Products, size and sign of the Jacobi factor `J = (t - r) d_z u - I`, eq. (12), which is minus the Jacobian of the flow map."""

import torch
from torch import Generator, Tensor

from meanstep.calls import called
from meanstep.coefficients import swung
from meanstep.probes.rows import Table, inner, signs, tabulated
from meanstep.shapes import event_size, over
from meanstep.types import Bridge, Field


@torch.no_grad()
def product(field: Field, b: Bridge, w: Tensor) -> Tensor:
    """`J w` for a direction `w` `[*B, *E]`, by one forward-mode pass at the bridge's `(z, r, t)`, eq. (12)."""
    return swung(field, b, w) - w


@torch.enable_grad()
def transposed(field: Field, b: Bridge, w: Tensor) -> Tensor:
    """`J^T w` for `w` `[*B, *E]`, by one backward pass; the field needs a gradient in `z`."""
    z = b.z.detach().requires_grad_()
    u = called(field, z, b.r, b.t, b.y)
    (g,) = torch.autograd.grad(u, z, w.to(u))
    return over(b.gap, g) * g - w


def dense(field: Field, b: Bridge) -> Tensor:
    """`J` itself, `[*B, d, d]` with the event flattened: `d` forward-mode passes."""
    d, columns = int(event_size(b.z, b.t)), []
    for k in range(d):
        w = torch.zeros_like(b.z).reshape(*b.t.shape, d)
        w[..., k] = 1
        columns.append(product(field, b, w.reshape(b.z.shape)).reshape(*b.t.shape, d))
    return torch.stack(columns, -1)


def factor(
    field: Field, b: Bridge, *, draws: int = 4, steps: int = 8, exact: int = 16, chunk: int = 1024, generator: Generator | None = None
) -> Table:
    """A table of the size and sign of `J` on every row, eq. (12), (45).

    Its columns:

    - `norm`: the spectral norm; `singular`: the mean singular value;
    - `kappa`: the trace over `d`, signed; `square`: the squared Frobenius norm over `d`;
    - `expanding`: 1 on rows with `square > 1`, where isotropic noise grows; its mean is the share of these rows.

    For events of at most `exact` entries they are exact and cost `d` passes. Above, `kappa` and `square` come from `draws` Hutchinson
    vectors (unbiased, but their spread blurs `expanding`). `norm`, then a lower bound, and `singular` come from `steps` Lanczos steps of a
    forward-mode and a backward pass. `chunk` rows (1024) go through at once. `steps=0` leaves these two out, as a field without gradient in
    `z` needs. Masked entries count like others. `generator` draws the vectors; None: from seed 0.
    """
    b, generator = b._replace(mask=None), generator or Generator().manual_seed(0)

    def probe(piece: Bridge) -> dict[str, Tensor]:
        if event_size(piece.z, piece.t) <= exact:
            return _exact(dense(field, piece).double())
        found = _hutchinson(field, piece, draws, generator)
        return found | (_lanczos(field, piece, steps, generator) if steps else {})

    return tabulated(b, chunk, probe)


def _exact(j: Tensor) -> dict[str, Tensor]:
    values = torch.linalg.svdvals(j)
    square = values.square().mean(-1)
    kappa = j.diagonal(dim1=-2, dim2=-1).mean(-1)
    return {"norm": values[..., 0], "singular": values.mean(-1), "kappa": kappa, "square": square, "expanding": (square > 1).double()}


def _hutchinson(field: Field, b: Bridge, draws: int, generator: Generator) -> dict[str, Tensor]:
    kappa, square, d = torch.zeros_like(b.t, dtype=torch.float64), torch.zeros_like(b.t, dtype=torch.float64), event_size(b.z, b.t)
    for _ in range(draws):
        g = signs(b.z, generator)
        jg = product(field, b, g)
        kappa, square = kappa + inner(g, jg, b) / (draws * d), square + inner(jg, jg, b) / (draws * d)
    return {"kappa": kappa, "square": square, "expanding": (square > 1).double()}


def _lanczos(field: Field, b: Bridge, steps: int, generator: Generator) -> dict[str, Tensor]:
    """Gauss quadrature of the singular values: Lanczos on `J^T J` from random signs, orthogonalised twice (Ubaru, Chen, Saad 2017)."""
    q = signs(b.z, generator) / float(event_size(b.z, b.t)) ** 0.5
    basis, main, side = [q], [], []
    for _ in range(steps):
        p = transposed(field, b, product(field, b, basis[-1]))
        main.append(inner(basis[-1], p, b))
        for q in basis * 2:
            p = p - over(inner(q, p, b), p).to(p) * q
        length = inner(p, p, b).sqrt()
        going = length > 10 * torch.finfo(p.dtype).eps * main[0]  # else the space is spent, as on r = t rows: a block of zeros follows
        side.append(torch.where(going, length, 0.0))
        basis.append(torch.where(over(going, p), p / over(length.clamp(min=torch.finfo(p.dtype).tiny), p).to(p), 0.0))
    tridiagonal = torch.diag_embed(torch.stack(main, -1))
    off = torch.stack(side[:-1], -1) if steps > 1 else main[0].new_zeros(*b.t.shape, 0)
    tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    roots, weights = nodes.clamp(min=0).sqrt(), vectors[..., 0, :].square()
    return {"norm": roots[..., -1], "singular": (roots * weights).sum(-1)}
