"""The residual's noise over the coefficient and its minimum, from the tables of `noise.moments` and `noise.directions`.

Heavy tails: on separated modes the noise at `beta = 0` is in a few rows, and plain draws miss these without showing it (docs/theory.md,
section 4). `Table.top` is the part in the top percent of rows, `Estimate.dof` the effective number of rows. Only the error of `matrix`
allows for rows that were not drawn, eq. (47b).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from meanstep.coefficients import binned, scalar_optimum
from meanstep.probes.rows import EDGES, Estimate, Table, influenced, student
from meanstep.types import Bridge
from meanstep.values import record

GRID = torch.linspace(0, 1, 11, dtype=torch.float64)


class Curve(NamedTuple):
    """The noise over a grid of coefficients: `betas` `[G]`, `noise` `[G, *M]`, and `top`, the share of the top percent of rows, alike."""

    betas: Tensor
    noise: Estimate
    top: Tensor

    def __repr__(self) -> str:
        return record(self)


def curve(table: Table, betas: Tensor = GRID, *, relative: bool = True) -> Curve:
    """The error `E|N v'|^2 + beta^2 E|(J + I) bias|^2` on a grid, eq. (17), (47), over `E|v'|^2` if `relative`; of `moments`.

    `betas`: coefficients `[G]`; 0, 0.1, ... 1. All from the same rows: values at different `beta` are strongly correlated, compare them by
    `difference`.
    """
    found, top = [], []
    for beta in betas.tolist():
        one = at_beta(table, beta)
        found.append(one.ratio("error", "s") if relative else one.mean("error"))
        top.append(one.top("error"))
    return Curve(betas, Estimate(*(torch.stack(part) for part in zip(*found, strict=True))), torch.stack(top))


def at_beta(table: Table, beta: float) -> Table:
    """The table of `moments` with one column more, `error`, eq. (47), at the coefficient `beta`: for its mean, bins and top share."""
    return table._replace(columns=table.columns | {"error": _error(table, beta)})


def difference(table: Table, beta: float, other: float) -> Estimate:
    """The error at `beta` less that at `other`, paired row by row, over `E|v'|^2`; of `moments`."""
    change = _error(table, beta) - _error(table, other)
    return table._replace(columns=table.columns | {"change": change}).ratio("change", "s")


def _error(table: Table, beta: float) -> Tensor:
    a, b, c, d = (table.columns[name] for name in "abcd")
    return a - 2 * beta * b + beta**2 * (c + d)


def matrix(table: Table) -> Estimate:
    """The unconstrained minimiser `E b / (E c + E d)`, eq. (20), (47); of `moments`. `.clipped()` puts it on [0, 1]; nan if `c = d = 0`.

    The error is the delta method's and, over Student's quantile, what rows beyond the largest would move the value by, eq. (47b).
    """
    swing, curvature = table.columns["b"], table.columns["c"] + table.columns["d"]
    value, mean = swing.mean(-1) / curvature.mean(-1), curvature.mean(-1, keepdim=True)
    psi = (swing - value[..., None] * curvature) / mean
    found = influenced(value, psi)
    return found._replace(error=found.error + unseen(psi) / student(found.dof))


def unseen(psi: Tensor, share: float = 0.01, least: float = 1.2) -> Tensor:
    """How far rows beyond the largest would move a mean of influences `psi` `[*M, N]`, if their tail is a power law, eq. (47b).

    The exponent is Hill's estimate from the largest `share` of rows (at least ten), and at least `least`. For light tails the result is
    far below the standard error.
    """
    n = psi.shape[-1]
    k = min(max(round(share * n), 10), n - 1)
    if k < 1:
        return torch.zeros_like(psi[..., 0])
    top = psi.abs().topk(k + 1, -1).values
    exponent = k / (top[..., :k] / top[..., k:]).log().sum(-1)
    return torch.where(top[..., 0] > 0, top[..., 0] / (n * (exponent.clamp(min=least) - 1)), 0.0)


def by_norm(table: Table) -> Estimate:
    """The paper's scalar form, eq. (19), with `|kappa| = (E|J v'|^2 / E|v'|^2)^(1/2)`: 1/2 near an isometry, whatever is right there."""

    def optimum(a: Tensor, s: Tensor, e: Tensor) -> Tensor:
        return torch.as_tensor(scalar_optimum((a / s).sqrt(), s, e))

    return table.smooth(optimum, "a", "s", "e")


def by_sign(table: Table) -> Estimate:
    """The scalar form, eq. (19b), with the signed `kappa = E<J v', v'> / E|v'|^2`, unconstrained; of `moments`.

    For `kappa < 0` it is above 1 or below 0 and clipping is right where the parabola opens upwards, that is everywhere but at
    `kappa = -1`, where it is singular and its interval says so.
    """

    def optimum(a: Tensor, b: Tensor, s: Tensor, e: Tensor) -> Tensor:
        return torch.as_tensor(scalar_optimum((b - a) / s, s, e))

    return table.smooth(optimum, "a", "b", "s", "e")


class Grid(NamedTuple):
    """The law of the noise over `(r, t)`: `a, b, c, s, d` are means in each bin `[n, n]`, rows by `t`, columns by `r`; nan where empty."""

    edges: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    s: Tensor
    d: Tensor
    counts: Tensor
    beta: Estimate

    def __repr__(self) -> str:
        return record(self)

    def noise(self, beta: float | Tensor) -> Tensor:
        """The error in each bin at one coefficient `beta`, or at a table of them `[n, n]`, not divided by anything."""
        return self.a - 2 * beta * self.b + beta**2 * (self.c + self.d)

    def total(self, beta: float | Tensor) -> Tensor:
        """The mean error of the rows at `beta` (see `noise`), by the bins' numbers of rows."""
        weight = self.counts / self.counts.sum()
        return torch.where(self.counts > 0, weight * self.noise(beta), 0.0).sum()

    def table(self, strength: float = 0.0) -> Tensor:
        """The coefficient of each bin on [0, 1], shrunk towards that of all rows, which is worth `strength` rows, eq. (53).

        That of all rows also where no row fell or the noise does not depend on it; 0 if it does not anywhere.
        """
        rows, seen = self.counts.to(self.b), self.counts > 0
        swing, curvature = (torch.where(seen, rows * x, 0.0) for x in (self.b, self.c + self.d))
        mean = curvature.sum() / rows.sum()
        pooled = torch.where(mean > 0, swing.sum() / curvature.sum(), 0.0).clamp(0, 1)
        own = (swing + strength * mean * pooled) / (curvature + strength * mean)
        return torch.where(curvature > 0, own, pooled).clamp(0, 1)

    def coefficient(self, strength: float = 0.0) -> Callable[[Bridge], Tensor]:
        """The `table` of this `strength` as a coefficient for a recipe. It is one draw, with errors: `beta` says how large."""
        return binned(self.edges, self.table(strength))


def per_bin(table: Table, edges: Tensor = EDGES) -> Grid:
    """The noise and its unconstrained minimiser in every bin of `(r, t)`, eq. (20), (47); of `moments`, members pooled.

    `edges`: of the bins along both axes, rising `[n + 1]`; eight equal ones.
    """
    with_curvature = table._replace(columns=table.columns | {"curvature": table.columns["c"] + table.columns["d"]})
    a, b, c, s, d = (table.bins(name, None, edges).value for name in "abcsd")
    return Grid(edges, a, b, c, s, d, table.counts(edges), with_curvature.bins("b", "curvature", edges))


def per_direction(table: Table, groups: int = 20) -> tuple[Estimate, Estimate]:
    """The best coefficient per direction on [0, 1], and the noise there over `E|v'|^2`, eq. (48); `table` is of `directions`.

    No ensemble axes. Errors are by the jackknife over `groups` groups of rows. The noise is too low by order `K / rows`, as `K`
    coefficients are fitted to the same rows. With one direction this is the optimum of one coefficient.
    """
    k = sum(name.startswith("h") for name in table.columns)
    n = table.r.shape[-1]
    part = (torch.arange(n, device=table.r.device) * groups).div(n, rounding_mode="floor")

    def sums(names: list[str]) -> Tensor:
        columns = torch.stack([table.columns[name] for name in names])
        return torch.zeros(len(names), groups, dtype=torch.float64, device=part.device).index_add_(1, part, columns)

    h, scale = sums([f"h{i}" for i in range(k)]), sums(["a", "s"])
    g = sums([f"g{min(i, j)},{max(i, j)}" for i in range(k) for j in range(k)]).view(k, k, groups)
    whole = _fitted(g.sum(-1), h.sum(-1), scale.sum(-1))
    rest = [[p.sum(-1) - p[..., i] for p in (g, h, scale)] for i in range(groups)]
    spread = torch.stack([_fitted(a, b, c) for a, b, c in rest], -1)
    psi = (groups - 1) * (spread.mean(-1, keepdim=True) - spread)
    error = (psi.square().sum(-1) / (groups * (groups - 1))).sqrt()
    dof = torch.full_like(error, groups - 1)
    return Estimate(whole[:-1], error[:-1], dof[:-1]), Estimate(whole[-1], error[-1], dof[-1])


def _fitted(g: Tensor, h: Tensor, scale: Tensor, sweeps: int = 200) -> Tensor:
    """The minimiser of `x G x - 2 h x` on the unit cube by coordinate descent, and `(a + that) / s` behind it."""
    x, diagonal = torch.zeros_like(h), g.diagonal()
    for _ in range(sweeps):
        before = x.clone()
        for i in range(len(x)):
            if diagonal[i] > 0:
                x[i] = (x[i] + (h[i] - g[i] @ x) / diagonal[i]).clamp(0, 1)
        if torch.equal(before, x):
            break
    return torch.cat([x, ((scale[0] - 2 * h @ x + x @ g @ x) / scale[1])[None]])


def center_bound(table: Table, square: float | Tensor, norm: float | Tensor) -> Tensor:
    """A bound on how far the center's error can have moved `matrix`'s value on [0, 1], eq. (49); `table` is of `moments` without a proxy.

    `square`: a bound on the mean squared error of the center, as from `bias.proxy_bias`; `norm`: a bound on the spectral norm of `J`
    on the rows, such as the largest of `factor`'s. It is a worst case, tight only if all error lies where the map expands most. With a
    better center use `center_shift`.
    """
    norm = torch.as_tensor(norm, dtype=torch.float64)
    return norm.clamp(min=1) * (norm + 1) * square / (table.columns["c"] + table.columns["d"]).mean(-1)


def center_shift(table: Table, errors: Table) -> Tensor:
    """The same bound from the center's error itself, taken to be that to a better one: `errors = moments(field, b, center, better)`.

    `max(|J e|, |e|) |(J + I) e| / (E c + E d)` with root mean squares, eq. (49), and `|J e| <= |(J + I) e| + |e|`.
    """
    d, e = (errors.columns[name].mean(-1) for name in "de")
    return (d.sqrt() + e.sqrt()) * d.sqrt() / (table.columns["c"] + table.columns["d"]).mean(-1)
