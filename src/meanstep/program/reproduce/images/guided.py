"""What the DiT of arXiv 2605.09235's authors is trained on, as their public code has it (read at commit c41e1c3). Knows no settings.

Their coefficient there is not eq. (17)'s. The velocity with guidance, eq. (28), is taken by the weights and by the EMA copy and the two are
mixed, in tangent *and* target: the draw's own `v` keeps the weight `omega` in both, so that `beta` moves the guidance alone, and the
noise of the tangent is that of MeanFlow at every `beta`. Their text has the EMA copy's velocity in the tangent only: `role="tangent"`.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from meanstep import boundary
from meanstep import times as at_times
from meanstep.objectives import Eulerian, Matching
from meanstep.rates import Exact
from meanstep.recipes.shares import IMAGENET, source_of, with_diagonal
from meanstep.terms import Recipe, Term, method
from meanstep.types import Bridge, Times, Velocity
from meanstep.values import value
from meanstep.velocities import Guided, conditional, hidden_from, mix, own, shown
from meanstep.weights import adaptive

ROLES = ("guidance", "tangent")


@method(slot="proxy", proxies=("ema",), idle=("beta",))
def guided_meanflow(
    beta: float = 0.0,
    proxy: Velocity | nn.Module | None = None,
    *,
    role: str = "guidance",
    anchor: float = 0.0,
    delta: tuple[float, float] = (0.0, 1e-3),
    times: Times = IMAGENET,
    diagonal_share: float = 0.75,
    exponent: float = 1.0,
    c: float = 1e-2,
    velocity: Velocity = conditional,
) -> Recipe:
    """MeanFlow with a part of its guidance taken by the EMA copy, and an anchor on every row, as the authors' DiT has them.

    - `beta` ([0, 1]; 0): the copy's share, of the guidance or of the tangent.
    - `proxy` (an EMA copy; needed unless `beta` is 0).
    - `role` ("guidance", as in their code, or "tangent", as in their text).
    - `anchor` (scale, at least 0; 0): adds the plain squared error of `u(z, t - delta, t)` to the unguided `v`, on the batch's own rows.
    - `delta` (two times; (0, 1e-3); published for the DiT).
    - `times`, `diagonal_share`: as of `meanflow`.
    - `exponent`, `c` (0 for the plain squared error, 1 and 0.01): of the adaptive weight, on the sum over the entries.
    - `velocity` (a `Guided` one where guidance is meant): target, and tangent at `beta = 0`.
    """
    if role not in ROLES:
        raise ValueError(f"role is one of {', '.join(ROLES)}, got {role!r}")
    boundary.number("anchor, the scale of a loss term,", anchor, 0)
    tangent, target = _roles(beta, proxy, role, velocity)
    weight, given = adaptive(exponent, c), shown(velocity)
    still = Term(Matching(target, given), at_times.diagonal(times), weight)
    recipe = with_diagonal(Eulerian(tangent, target, Exact(), given), times, weight, diagonal_share, still)
    near = Term(Matching(conditional, given), None, adaptive(0.0, c), 1.0, anchor, backed_up(*delta))
    return (*recipe, near) if anchor else recipe


def _roles(beta: float, proxy: Velocity | nn.Module | None, role: str, velocity: Velocity) -> tuple[Velocity, Velocity]:
    """Tangent and target."""
    if beta == 0:
        return velocity, velocity
    copy = source_of(proxy, "guided_meanflow with beta > 0", "an EMA copy")
    if role == "tangent":
        return mix(velocity, hidden_from(copy, shown(velocity)), beta), velocity
    if not isinstance(velocity, Guided):
        raise ValueError(f"without guidance beta = {beta:g} changes nothing in this role: guide the velocity, or take role='tangent'")
    guided = replace(velocity, by=mix(own, copy, beta))
    return guided, guided


@value
def backed_up(low: float, high: float) -> Callable[[Bridge], Bridge]:
    """The row itself with `r = max(t - delta, 0)`, `delta` uniform on [low, high]: the anchor at the row's own `z` and `t`."""
    if not 0 <= low <= high <= 1:
        raise ValueError(f"the anchor's gap needs 0 <= low <= high <= 1, got low={low:g}, high={high:g}")
    return lambda b: b._replace(r=(b.t - (low + (high - low) * b.uniforms()[..., 1].to(b.t))).clamp(min=0))
