"""The noise of a residual: measured on the `Regression` that the loss reads, split by role, and as a parabola in the coefficient.

The noise is `v' = v_c - E[v_c | z]`, eq. (3). `center` is the estimate of `E[v_c | z]`: an oracle, a posterior, an EMA copy, `own`. If it
is off by `e`, a deterministic function of `z` and `t`, every second moment here is too large by the same moment of `e`: bias counts as
noise. `optimum.center_bound` bounds the effect on the coefficient, `bias.proxy_bias` the size of `e`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from meanstep.probes.jacobian import product
from meanstep.probes.rows import Table, inner, tabulated
from meanstep.tangents import rehearsal
from meanstep.types import Bridge, Field, Objective, Regression, Velocity


def at_center(objective: Objective, center: Velocity) -> Objective:
    """The same objective without its noise: it gets `center` in place of the conditional velocity `v_c`.

    Exact for velocities that are affine in `v_c`: all but `Posterior`, which computes the row's data point from it. Random numbers,
    conditions and dropped labels stay the same.
    """
    return lambda field, b: objective(field, b._replace(v=center(field, b).detach().to(b.z)))


def roles(
    field: Field,
    b: Bridge,
    objective: Objective,
    center: Velocity | None = None,
    *,
    quiet: Objective | None = None,
    chunk: int = 1024,
) -> Table:
    """The noise of an objective's residual on every row and its split by role, eq. (13), (17), (46).

    The objective is evaluated twice with the same random numbers: as it is, and without noise as `quiet`, by default
    `at_center(objective, center)`. The difference of the two predictions is the noise through the tangent; that of the two targets,
    negated, is the noise of the target. Columns, squared norms:

    - `residual`: of the residual `R`; `mean`: of the quiet residual; `noise`: of their difference;
    - `tangent`, `target`: of the two parts of that difference; `cross`: their inner product. So `noise = tangent + target + 2 cross`.

    For a `Posterior` pass as `quiet` the same objective with an oracle in its place: its bias then counts. Works for every objective,
    and on rows with `r = t`. `chunk`: rows that go through at once, 1024. `ValueError` without `center` and `quiet`.
    """
    if quiet is None and center is None:
        raise ValueError("the noise needs a reference: give a center velocity, or a quiet objective")
    still = quiet or at_center(objective, center)  # type: ignore[arg-type]

    def probe(piece: Bridge) -> dict[str, Tensor]:
        noisy, calm = _evaluated(objective, field, piece), _evaluated(still, field, piece)
        tangent, target = (noisy.prediction - calm.prediction).to(piece.z), (calm.target - noisy.target).to(piece.z)
        residual, mean = ((found.prediction - found.target).to(piece.z) for found in (noisy, calm))
        total = tangent + target
        squares = {"residual": residual, "mean": mean, "noise": total, "tangent": tangent, "target": target}
        return {name: inner(x, x, piece) for name, x in squares.items()} | {"cross": inner(tangent, target, piece)}

    return tabulated(b, chunk, probe)


def _evaluated(objective: Objective, field: Field, b: Bridge) -> Regression:
    with rehearsal(b.z, field):
        return objective(field, b)


@torch.no_grad()
def moments(field: Field, b: Bridge, center: Velocity, proxy: Velocity | None = None, *, chunk: int = 1024) -> Table:
    """The terms of the noise as a parabola in the coefficient, from one forward-mode pass, eq. (17), (47); `optimum` uses this table.

    With `y = J v'`, `q = (J + I) v'` and the proxy's bias taken to be `proxy - center`, the columns are

    - `a`: `|y|^2`, `b`: `<y, q>`, `c`: `|q|^2`, `s`: `|v'|^2`;
    - `d`: `|(J + I) bias|^2`, `e`: `|bias|^2`; both 0 without a proxy, which then costs no pass;
    - `expanding`: 1 where `a > s`.

    `center`: the velocity that noise is measured from; its error counts as noise. `proxy`: what would stand in the tangent. `chunk`: rows
    that go through at once, 1024. Draw rows with `r < t`: those with `r = t` have `a = s` and `b = c = 0`.
    """

    def probe(piece: Bridge) -> dict[str, Tensor]:
        middle = center(field, piece).to(piece.z)
        n = piece.v - middle
        y = product(field, piece, n)
        found = {**_parabola(y, n, piece), "d": torch.zeros_like(piece.t, dtype=torch.float64)}
        found["e"] = found["d"]
        if proxy is not None:
            bias = proxy(field, piece).to(piece.z) - middle
            moved = product(field, piece, bias) + bias
            found |= {"d": inner(moved, moved, piece), "e": inner(bias, bias, piece)}
        return found

    return tabulated(b, chunk, probe)


def _parabola(y: Tensor, n: Tensor, b: Bridge) -> dict[str, Tensor]:
    q, a, s = y + n, inner(y, y, b), inner(n, n, b)
    still = b.gap == 0  # J is exactly -I there, whatever the rounding
    return {
        "a": torch.where(still, s, a),
        "b": torch.where(still, 0.0, inner(y, q, b)),
        "c": torch.where(still, 0.0, inner(q, q, b)),
        "s": s,
        "expanding": ((a > s) & ~still).double(),
    }


Split = Callable[[Tensor, Bridge], Tensor]
"""`(v [*B, *E], bridge) -> [K, *B, *E]`: parts that sum to `v`."""


def coordinates(v: Tensor, b: Bridge) -> Tensor:
    """The split of `v` `[*B, *E]` into single entries of the event, `[d, *B, *E]`: for events of a few entries."""
    flat = v.reshape(*b.t.shape, -1)
    return torch.stack([x.reshape(v.shape) for x in torch.diag_embed(flat).unbind(-2)])


def channels(v: Tensor, b: Bridge) -> Tensor:
    """The split of `v` `[*B, *E]` along the first axis of the event: an image's channels, a sequence's places; `[K, *B, *E]`."""
    axis = b.t.ndim
    k = v.shape[axis]
    return v * torch.eye(k, dtype=v.dtype, device=v.device).reshape(k, *(1,) * axis, k, *(1,) * (v.ndim - axis - 1))


@torch.no_grad()
def directions(field: Field, b: Bridge, center: Velocity, split: Split = coordinates, *, chunk: int = 1024) -> Table:
    """The noise as a quadratic form in one coefficient per direction, eq. (48), from `K` forward-mode passes.

    `split` divides the noise into `K` parts; part `k` gets the coefficient `beta_k`. With `q_k = (J + I) v'_k` the columns are `h{k}`:
    `<y, q_k>`, `g{k},{l}`: `<q_k, q_l>` for `k <= l`, `a` and `s`. `optimum.per_direction` solves for the coefficients. `J` need not be
    diagonal. `center` and `chunk` as of `moments`.
    """

    def probe(piece: Bridge) -> dict[str, Tensor]:
        n = piece.v - center(field, piece).to(piece.z)
        parts = list(split(n, piece))
        moved = [product(field, piece, p) + p for p in parts]
        y = torch.stack(moved).sum(0) - n
        found = {"a": inner(y, y, piece), "s": inner(n, n, piece)}
        for k, q in enumerate(moved):
            found[f"h{k}"] = inner(y, q, piece)
            found |= {f"g{k},{l}": inner(q, moved[l], piece) for l in range(k, len(moved))}
        return found

    return tabulated(b, chunk, probe)
