"""How far a proxy is from the marginal velocity: exact where this velocity is known, else an upper bound."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from meanstep.probes.rows import Estimate, Table, inner, tabulated
from meanstep.types import Bridge, Field, Velocity
from meanstep.values import record


class Bias(NamedTuple):
    """`square`: a proxy's mean squared error `E|v_hat - v|^2` or a bound on it, `kind`: "exact" or "upper bound", `rows`: the table."""

    square: Estimate
    kind: str
    rows: Table

    def __repr__(self) -> str:
        return record(self)


@torch.no_grad()
def proxy_bias(
    field: Field,
    b: Bridge,
    proxy: Velocity,
    truth: Velocity | None = None,
    posteriors: Sequence[Velocity] = (),
    *,
    chunk: int = 1024,
) -> Bias:
    """The squared error of a proxy that is a function of `(z, t)` alone, such as an EMA copy or `own`, or a bound on it, eq. (50).

    - With `truth` (an oracle) it is exact.
    - With `posteriors` it is an upper bound that tends to the error as the references grow: the mean of `<v_hat - p_j, v_hat - p_k>` over
      pairs. It needs three or more `Posterior`s on independent references, drawn like the data, that include the row's own point. Two have
      no error over references, one is a `ValueError`. The standard error is over rows and, by a jackknife, over references. References that
      hold the rows' own data points void the bound.
    - With neither it is the mean of `|v_hat - v_c|^2`, which is the error plus all the noise. Its difference between two proxies is that
      of their squared errors, without bias.

    Columns: `square`, and `total`, which is `|v_hat - v_c|^2`. `chunk`: rows that go through at once, 1024.
    """

    if len(posteriors) == 1 and truth is None:
        raise ValueError("the bound is a mean over pairs of posteriors, and there is one: give three or more, on independent references")

    def probe(piece: Bridge) -> dict[str, Tensor]:
        guess = proxy(field, piece).to(piece.z)
        off = guess - piece.v
        found = {"total": inner(off, off, piece)}
        if truth is not None:
            error = guess - truth(field, piece).to(piece.z)
            return found | {"square": inner(error, error, piece)}
        if posteriors:
            return found | _crossed([guess - p(field, piece).to(piece.z) for p in posteriors], piece, "square")
        return found | {"square": found["total"]}

    table = tabulated(b, chunk, probe)
    crossed = bool(posteriors) and truth is None
    square = over_references(table, "square") if crossed else table.mean("square")
    return Bias(square, "exact" if truth is not None else "upper bound", table)


@torch.no_grad()
def posterior_gain(field: Field, b: Bridge, posteriors: Sequence[Velocity], truth: Velocity | None = None, *, chunk: int = 1024) -> Table:
    """How much noise the posterior velocity removes as target and tangent, and its bias, eq. (51).

    `posteriors`: the same `Posterior` on two or more independent references, `ValueError` for fewer; `chunk`: rows at once, 1024. The
    columns are means over these:

    - `removed`: `|v_c - p|^2`. With the own point included its mean is `E|v'|^2 - E|p - v|^2`: the noise removed, without an
      oracle, and a lower bound on `E|v'|^2`.
    - `spread`: the variance that comes from the reference. On one fixed reference up to this much of the remaining noise is a bias, which
      does not average out over training.

    With `truth` also:

    - `noise`: `|v_c - v|^2`; `left`: `|p - v|^2`. For `J = kappa I`, `ratio("left", "noise")` is the factor of the noise with the posterior
      as target and tangent; in general see `noise.roles`.
    - `bias`: the mean of `<p_j - v, p_k - v>` over pairs; `over_references(table, "bias")` gives its mean and error. Without the own point
      it is the squared bias of a reference of this size. With it there is no bias over fresh references, and this is the variance due to
      the own point.
    """

    def probe(piece: Bridge) -> dict[str, Tensor]:
        ps = torch.stack([p(field, piece).to(piece.z) for p in posteriors])
        spread = sum(inner(p, p, piece) for p in ps - ps.mean(0)) / (len(ps) - 1)
        found = {"removed": sum(inner(p, p, piece) for p in piece.v - ps) / len(ps), "spread": torch.as_tensor(spread)}
        if truth is not None:
            v = truth(field, piece).to(piece.z)
            found["noise"], found["left"] = inner(piece.v - v, piece.v - v, piece), sum(inner(p, p, piece) for p in ps - v) / len(ps)
            found |= _crossed(list(ps - v), piece, "bias")
        return {name: torch.as_tensor(column) for name, column in found.items()}

    if len(posteriors) < 2:
        raise ValueError("the bias of a posterior is told from its variance by two independent references: give two posteriors or more")
    return tabulated(b, chunk, probe)


def _crossed(errors: list[Tensor], b: Bridge, name: str) -> dict[str, Tensor]:
    """The mean of `<e_j, e_k>` over pairs `j < k`, and from four members on that without each one: `name - 0` and so on."""
    own = [inner(e, e, b) for e in errors]
    whole = torch.stack(errors).sum(0)

    def pairs(total: Tensor, squares: list[Tensor]) -> Tensor:
        return (inner(total, total, b) - torch.stack(squares).sum(0)) / (len(squares) * (len(squares) - 1))

    found = {name: pairs(whole, own)}
    if len(errors) > 2:
        found |= {f"{name} - {k}": pairs(whole - e, own[:k] + own[k + 1 :]) for k, e in enumerate(errors)}
    return found


def over_references(table: Table, name: str) -> Estimate:
    """The mean of the column of pairs `name` in a `table` of this module.

    Its standard error adds that over rows and, by the jackknife, that over references.

    With two references the second is unknown, and the error is nan.
    """
    rows, k = table.mean(name), sum(other.startswith(f"{name} - ") for other in table.columns)
    if k == 0:
        return rows._replace(error=torch.full_like(rows.error, float("nan")))
    without = torch.stack([table.columns[f"{name} - {j}"].mean(-1) for j in range(k)])
    reference = (without - without.mean(0)).square().sum(0) * (k - 1) / k
    square = rows.error.square() + reference
    dof = square.square() / (rows.error**4 / rows.dof.clamp(min=1) + reference.square() / (k - 1))
    return Estimate(rows.value, square.sqrt(), dof)
