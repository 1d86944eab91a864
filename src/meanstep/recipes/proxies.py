"""MeanFlow with another velocity than the draw's own in the tangent: a proxy, a posterior, a head."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from meanstep import boundary
from meanstep import times as at_times
from meanstep.objectives import Eulerian, Matching
from meanstep.rates import Exact
from meanstep.recipes.conditional import meanflow
from meanstep.recipes.shares import IMAGENET, expect_dropout, source_of, with_diagonal
from meanstep.terms import Recipe, Term, method
from meanstep.types import Bridge, Coefficient, Rate, Times, Velocity, Weight
from meanstep.velocities import (
    Guided,
    LabelDropout,
    LabelOnly,
    Posterior,
    as_is,
    auxiliary,
    conditional,
    flexible_scale,
    flexibly_guided,
    floored,
    head,
    hidden_from,
    in_window,
    mix,
    shown,
)
from meanstep.weights import adaptive, constant, trace


@method(slot="proxy", proxies=("ema", "own", "posterior"), idle=("beta", "target_beta"), coefficient="beta")
def coefficient(
    beta: Coefficient = 1.0,
    proxy: Velocity | nn.Module | None = None,
    *,
    anchor: float | None = None,
    anchor_share: float = 1.0,
    delta: tuple[float, float] = (1e-4, 1e-2),
    target_beta: Coefficient = 0.0,
    times: Times = IMAGENET,
    diagonal_share: float = 0.75,
    weight: Weight = adaptive(1.0, 1e-2),
    velocity: Velocity = conditional,
    rate: Rate = Exact(),
) -> Recipe:
    """The coefficient family, eq. (17), (18): tangent `(1 - beta) v + beta proxy`, target `v`; arXiv 2605.09235, Algorithm 1.

    On rows whose label is dropped a network that is the proxy does not see it either: with guidance its velocity under the label is not
    that of the row's target. A `Posterior` sees it, which is unbiased. Times, shares and weight are MeanFlow's, as in the authors' code for
    latents. Their code for toys has sorted uniform times with gaps up to 0.5, a quarter of the rows at `r = t` and the plain squared error.

    - `beta` ([0, 1], or a function of the bridge, or a tensor over an ensemble; 1; published): 0 is MeanFlow.
    - `proxy` (a velocity, or a module whose boundary is taken; none; published): an EMA copy; or `own`, a `Posterior`. Needed unless `beta`
      is the number 0.
    - `anchor` (scale of a loss term, at least 0; None, which is 0.5 at `beta = 1`, off below; published): matching at `r = t - delta`.
    - `anchor_share` (share of the rows, (0, 1]; 1; published): how many get an anchor.
    - `delta` (two times, `0 <= low <= high <= 1`; (1e-4, 1e-2); published for toys; latents have `delta=(0, 1e-3)`, `anchor=0.1`).
    - `target_beta` ([0, 1], a function or a tensor; 0; ours): puts the proxy into the target as well (not the anchor's), which only a
      consistent proxy bears.
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published for latents).
    - `diagonal_share` ([0, 1]; 0.75; published for latents): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2)`; published for latents, but for `beta = 1`, which has the plain sum).
    - `velocity` (a velocity; `conditional`; published): the unbiased part of tangent and target.
    - `rate` (a way to differentiate; `Exact()`; published).

    `ValueError` without a proxy where one is needed, and out of these ranges.
    """
    if anchor is not None:
        boundary.number("anchor, the scale of a loss term,", anchor, 0)
    boundary.rising("delta, the gap of the anchor,", delta, 0, 1)
    boundary.number("anchor_share, the share of rows with an anchor,", anchor_share, 0, 1, above=True)
    plain = all(isinstance(value, (int, float)) and value == 0 for value in (beta, target_beta))
    other = velocity if plain else _hidden(source_of(proxy, "coefficient with beta > 0", "a proxy velocity"), velocity)
    tangent, target = mix(velocity, other, beta), mix(velocity, other, target_beta, "target_beta")
    alike = beta is target_beta or (isinstance(beta, (int, float)) and isinstance(target_beta, (int, float)) and beta == target_beta)
    target = tangent if alike else target  # then the proxy is evaluated once
    still = Term(Matching(target, shown(velocity)), at_times.diagonal(times), weight)
    recipe = with_diagonal(Eulerian(tangent, target, rate, shown(velocity)), times, weight, diagonal_share, still)
    scale = anchor if anchor is not None else 0.5 if isinstance(beta, (int, float)) and beta == 1 else 0.0
    near = Term(Matching(velocity, shown(velocity)), at_times.anchor(times, *delta), weight, anchor_share, scale)
    return (*recipe, near) if scale else recipe


def _hidden(proxy: Velocity, velocity: Velocity) -> Velocity:
    """A network's velocity under the label that the trained one is shown; a posterior has none for a hidden label."""
    given = shown(velocity)
    return proxy if given is as_is or isinstance(proxy, Posterior) else hidden_from(proxy, given)


@method(slot="proxy", proxies=("ema", "own", "posterior"), coefficient=1.0)
def trace_weighted(
    sigma: str | Callable[[Tensor], Tensor] = "one",
    exact: bool = False,
    proxy: Velocity | nn.Module | None = None,
    *,
    times: Times = at_times.uniform,
    diagonal_share: float = 0.25,
    velocity: Velocity = conditional,
    rate: Rate = Exact(),
) -> Recipe:
    """MeanFlow with a proxy's tangent, the squared error summed over the entries, and the trace weight, eq. (17), (55); arXiv 2605.09235.

    As in the authors' first draft and their toys, without an anchor; other recipes take `weight=weights.trace()`. Rows with `r < t`
    take a second tangent, see `docs/performance.md`.

    - `sigma` (one, t, t2, bridge, scale, or a function of `t`; one; published): the noise scale: 1, `t`, `t^2`, `sqrt(t (1 - t))`,
      `1 / sqrt((1 - t)^2 + t^2)`. The draft's tables have `t^2`.
    - `exact` (true or false; false; published): the trace by a derivative for each of at most 256 entries, else by one probe of signs.
    - `proxy` (a velocity, or a module whose boundary is taken; none, it is needed; published): an EMA copy (decay 0.999 as published).
    - `times` (pairs `0 <= r <= t <= 1`; two sorted uniforms; published but for their cap, `times.capped(times.uniform, 0.5)`, without which
      one-step samples ask for gaps that were trained).
    - `diagonal_share` ([0, 1]; 0.25; published): the share of rows with `r = t`.
    - `velocity` (a velocity; `conditional`; published): the target; a `Guided` guides and hides labels.
    - `rate` (a way to differentiate; `Exact()`; published).
    """
    source = source_of(proxy, "trace_weighted", "a proxy velocity")
    weight = trace(sigma, exact)
    return coefficient(1.0, source, anchor=0.0, times=times, diagonal_share=diagonal_share, weight=weight, velocity=velocity, rate=rate)


@method(
    slot="posterior",
    proxies=("posterior",),
    unread="its velocity compares with rows of the data, and only a run knows which: diagnose the folder of the run, or read "
    "the network with --recipe meanflow",
)
def posterior_meanflow(
    posterior: Velocity | None = None,
    times: Times = at_times.uniform,
    diagonal_share: float = 0.5,
    weight: Weight = constant,
    velocity: Velocity = conditional,
    instant: bool = False,
) -> Recipe:
    """MeanFlow with a posterior velocity in both roles and the plain squared error, eq. (24), (31), (51); ours, for small rows.

    Evidence: studies/latents, a DiT on 64 numbers a row, 500 steps, three seeds, one-step samples of digits: 0.86 [0.77, 0.95] of the
    distance of the best constant `coefficient` under the same weight, 0.76 [0.74, 0.77] of the best one under the adaptive weight.
    Where it stops to pay: studies/posterior. Not with an adaptive
    weight, which gives all the weight to rows whose residual nearly vanishes.

    - `posterior` (a velocity; none, it is needed; ours): a `Posterior` over rows of the data, of their labels for a conditional network.
    - `times` (pairs `0 <= r <= t <= 1`; two sorted uniforms; ours).
    - `diagonal_share` ([0, 1]; 0.5; ours): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `constant`; ours).
    - `velocity` (a velocity; `conditional`; ours): a `Guided` guides the posterior and hides labels.
    - `instant` (true or false; false; ours): true has the posterior in the target of the `r = t` rows alone, as flow matching has it in
      Stable Velocity, arXiv 2602.05435; the other rows keep `velocity`.
    """
    boundary.velocity("velocity", velocity)
    base = source_of(
        posterior, "posterior_meanflow", "a velocity that is consistent in both roles, velocities.Posterior over rows of the data"
    )
    within = replace(velocity, base=base) if isinstance(velocity, Guided) else base
    if not instant:
        return meanflow(times, diagonal_share, weight, within)
    still = Term(Matching(within, shown(within)), at_times.diagonal(times), weight)
    return with_diagonal(Eulerian(velocity, velocity, Exact(), shown(velocity)), times, weight, diagonal_share, still)


@method(slot="tangent", proxies=("head", "own"), coefficient=1.0)
def improved_meanflow(
    tangent: Velocity = head,
    guidance: LabelDropout | None = None,
    top_scale: float = 8.0,
    scale_power: float = 1.0,
    times: Times = IMAGENET,
    diagonal_share: float = 0.5,
    weight: Weight = adaptive(1.0, 1e-2),
    velocity: Velocity = conditional,
    instants: Times | None = None,
) -> Recipe:
    """Improved MeanFlow, eq. (17) at `beta = 1` with a predicted tangent, eq. (29); arXiv 2512.02012.

    The head costs a forward pass of its own here unless the field has `with_head`: the published code reads it off the first.

    - `tangent` (a velocity; `head`; published): `head` takes and trains the field's auxiliary head on all rows; `own` needs none,
      which is reported to diverge when the boundary is not supervised: keep `diagonal_share` near 0.5.
    - `guidance` (a `LabelDropout`, or None; None; ours): the network is then given a `Condition` with a random scale and a random interval;
      the published runs have guidance.
    - `top_scale` (a guidance scale, above 1; 8; published): the largest that is drawn.
    - `scale_power` (a number; 1; published): the density of the scale is `omega^-scale_power`.
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published).
    - `diagonal_share` ([0, 1]; 0.5; published): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2)`; published).
    - `velocity` (a velocity; `conditional`; published): what is regressed on.
    - `instants` (times in [0, 1], or None for those of `times`; None; published): of the `r = t` rows.

    The published code drops labels on `r = t` rows alone: `guidance=LabelDropout(null, rows="instant")`.
    """
    expect_dropout(guidance)
    scaled = flexible_scale(top_scale, scale_power)
    prepare: Callable[[Bridge], Bridge] = as_is if guidance is None else scaled
    given: Callable[[Bridge], Bridge] = shown(velocity) if guidance is None else LabelOnly(guidance)
    inside = tangent if guidance is None else in_window(tangent)
    target = velocity if guidance is None else flexibly_guided(velocity, guidance, by=tangent)
    still = Term(Matching(target, given), at_times.diagonal(instants or times), weight)
    recipe = with_diagonal(Eulerian(inside, target, Exact(), given), times, weight, diagonal_share, still)
    if tangent is head:
        recipe += (Term(Matching(target, given, auxiliary), None, weight),)
    return tuple(replace(term, prepare=prepare) for term in recipe)


@method(slot="tangent", proxies=("head", "own"), needs=("data prediction",), coefficient=1.0)
def pixel_meanflow(
    floor: float = 0.05,
    tangent: Velocity = head,
    guidance: LabelDropout | None = None,
    scale_power: float = 1.0,
    times: Times = at_times.logit_normal(0.8, 0.8),
    diagonal_share: float = 0.5,
    instants: Times = at_times.instants(0.8, 0.8),
) -> Recipe:
    """Pixel MeanFlow: improved MeanFlow on a network that predicts data, eq. (32); arXiv 2601.22158.

    The field is `fields.DataPrediction(net, floor)` with the same `floor`. The perceptual terms of the source are
    `terms.beside(recipe, auxiliary.perceptual(lpips), auxiliary.perceptual(convnext, 0.1))`, its tenth of uniform times is `times.mixed`.

    - `floor` (a time in (0, 1]; 0.05; published): below it the velocity is no longer divided by `t`.
    - `tangent` (a velocity; `head`; published): as of `improved_meanflow`.
    - `guidance` (a `LabelDropout`, or None; None; ours): as of `improved_meanflow`; the published runs have guidance.
    - `scale_power` (a number; 1; published): the density of the guidance scale is `omega^-scale_power`.
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean 0.8 and std 0.8; published).
    - `diagonal_share` ([0, 1]; 0.5; published): the share of rows with `r = t`.
    - `instants` (times in [0, 1]; one logit-normal of mean 0.8 and std 0.8; published): of the `r = t` rows.
    """
    velocity = floored(conditional, floor)
    return improved_meanflow(
        tangent, guidance, 8.0, scale_power, times=times, diagonal_share=diagonal_share, velocity=velocity, instants=instants
    )
