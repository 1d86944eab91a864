"""The table of papers: one method, one composition. No recipe has a loop, a draw or a derivative of its own.

Defaults are the published settings where they are known; `docs/theory.md` holds the equations and `docs/choosing.md` the advice.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from meanstep import times as at_times
from meanstep.coefficients import at, checked, exponential, linear, sigmoid
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup, random_split
from meanstep.rates import Backward, Central, Exact
from meanstep.terms import Recipe, Term, method
from meanstep.types import Bridge, Coefficient, Field, Objective, Rate, Times, Velocity, Weight
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
    in_window,
    mix,
    of,
    random_scale,
    scaled_guided,
    shown,
)
from meanstep.weights import (
    Cauchy,
    adaptive,
    alpha,
    constant,
    inverse_square_scale,
    min_snr,
    shrinking_gap,
    tangent_gap,
    times_factor,
)

Given = Callable[[Bridge], Bridge]
IMAGENET = at_times.logit_normal(-0.4, 1.0)
"""MeanFlow's sampler on ImageNet latents: two sorted logit-normals."""


def _with_diagonal(objective: Objective, times: Times, weight: Weight, share: float, rows: Term) -> Recipe:
    """An objective on a part of the rows and another term's objective on the `share` that is left."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of r = t rows lies in [0, 1], got {share:g}")
    moving = (Term(objective, times, weight, 1 - share),) if share < 1 else ()
    still = (replace(rows, share=share),) if share > 0 else ()
    return moving + still


def _source(proxy: Velocity | nn.Module | None, recipe: str, what: str) -> Velocity:
    if not callable(proxy):
        remedy = "pass the module (an EMA copy such as ms.Average(net)) or a velocity"
        raise ValueError(f"{recipe} needs {what}: {remedy}, got {proxy!r}")
    if isinstance(proxy, nn.Module):
        return of(proxy)
    try:
        signature = inspect.signature(proxy)
    except ValueError:  # a built-in function: it will say for itself what it takes
        return proxy
    try:
        signature.bind(None, None)
    except TypeError:
        raise ValueError(f"{recipe} needs {what}, a function of (field, bridge): for the field {proxy!r} pass velocities.of(it)") from None
    return proxy


def _expect_dropout(guidance: LabelDropout | None) -> None:
    if guidance is not None and not isinstance(guidance, LabelDropout):
        raise TypeError(f"guidance is a LabelDropout(null) that says which label means none, got {guidance!r}")


@method(learns="instantaneous")
def flow_matching(times: Times = at_times.instants(-0.4, 1.0), weight: Weight = constant, velocity: Velocity = conditional) -> Recipe:
    """Flow matching, eq. (7) at `r = t`; arXiv 2210.02747. Default times: the single logit-normal of MeanFlow's setting."""
    return (Term(Matching(velocity, shown(velocity)), at_times.diagonal(times), weight),)


@method(coefficient=0.0)
def meanflow(
    times: Times = IMAGENET,
    diagonal_share: float = 0.75,
    weight: Weight = adaptive(1.0, 1e-2),
    velocity: Velocity = conditional,
    rate: Rate = Exact(),
) -> Recipe:
    """MeanFlow, eq. (11), (24); arXiv 2505.13447, ImageNet settings.

    For guidance pass `velocity=Guided(conditional, LabelDropout(null), omega, kappa)`. CIFAR: `times=logit_normal_pair()`,
    `diagonal_share=0.25`, `weight=adaptive(0.75, 1e-3)`.
    """
    still = Term(Matching(velocity, shown(velocity)), at_times.diagonal(times), weight)
    return _with_diagonal(Eulerian(velocity, velocity, rate, shown(velocity)), times, weight, diagonal_share, still)


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

    `proxy`: an EMA copy (its boundary is taken), or any velocity such as `own` or a `Posterior`; needed unless `beta` is the number 0.
    `anchor`: scale of the flow-matching anchor at `r = t - delta`; None follows the paper (0.5 at `beta = 1`, off below); `anchor_share`
    of the rows get one. `target_beta` puts the proxy into the target as well (not the anchor's), which only a consistent proxy bears. On
    rows whose label is dropped a network that is the proxy does not see it either: with guidance its velocity under the label is not
    that of the row's target. A `Posterior` sees it, which is unbiased. Latent settings of the paper: `delta=(0, 1e-3)`,
    `anchor=0.1`. Times, row shares and weight are MeanFlow's: the paper's own are unknown to us.
    """
    if anchor is not None and anchor < 0:
        raise ValueError(f"anchor is the scale of a loss term, at least 0, got {anchor:g}")
    plain = all(isinstance(value, (int, float)) and value == 0 for value in (beta, target_beta))
    other = velocity if plain else _hidden(_source(proxy, "coefficient with beta > 0", "a proxy velocity"), velocity)
    tangent, target = mix(velocity, other, beta), mix(velocity, other, target_beta, "target_beta")
    alike = beta is target_beta or (isinstance(beta, (int, float)) and isinstance(target_beta, (int, float)) and beta == target_beta)
    target = tangent if alike else target  # then the proxy is evaluated once
    still = Term(Matching(target, shown(velocity)), at_times.diagonal(times), weight)
    recipe = _with_diagonal(Eulerian(tangent, target, rate, shown(velocity)), times, weight, diagonal_share, still)
    scale = anchor if anchor is not None else 0.5 if isinstance(beta, (int, float)) and beta == 1 else 0.0
    near = Term(Matching(velocity, shown(velocity)), at_times.anchor(times, *delta), weight, anchor_share, scale)
    return (*recipe, near) if scale else recipe


def _hidden(proxy: Velocity, velocity: Velocity) -> Velocity:
    """A network's velocity under the label that the trained one is shown; a posterior has none for a hidden label."""
    given = shown(velocity)
    return proxy if given is as_is or isinstance(proxy, Posterior) else lambda field, b: proxy(field, given(b))


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
) -> Recipe:
    """MeanFlow with a posterior velocity in both roles and the plain squared error, eq. (24), (31), (51); ours, for small rows.

    Evidence: studies/latents, a DiT on 64 numbers a row, 500 steps, three seeds, one-step samples of digits: 0.86 [0.77, 0.95] of the
    distance of the best constant `coefficient` under the same weight, 0.76 [0.74, 0.77] of the best one under the adaptive weight.
    Where it stops to pay: studies/posterior.
    `posterior`: a `Posterior` over rows of the data, of their labels for a conditional network. `velocity`: a `Guided` guides the
    posterior and hides labels. Not with an adaptive weight, which gives all the weight to rows whose residual nearly vanishes.
    """
    base = _source(
        posterior, "posterior_meanflow", "a velocity that is consistent in both roles, velocities.Posterior over rows of the data"
    )
    return meanflow(times, diagonal_share, weight, replace(velocity, base=base) if isinstance(velocity, Guided) else base)


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
) -> Recipe:
    """Improved MeanFlow, eq. (17) at `beta = 1` with a predicted tangent, eq. (29); arXiv 2512.02012.

    `tangent=head` (default) takes and trains the field's auxiliary head on all rows; `tangent=own` is the variant without a head, which
    is reported to diverge when the boundary is not supervised: keep `diagonal_share` near 0.5. With `guidance` the network is given a
    `Condition` with a random scale up to `top_scale` (density `omega^-scale_power`) and a random interval. The head costs a forward
    pass of its own here: the published code reads it off the first.
    """
    _expect_dropout(guidance)
    prepare: Given = as_is if guidance is None else flexible_scale(top_scale, scale_power)
    given: Given = shown(velocity) if guidance is None else LabelOnly(guidance)
    inside = tangent if guidance is None else in_window(tangent)
    target = velocity if guidance is None else flexibly_guided(velocity, guidance, by=tangent)
    still = Term(Matching(target, given), at_times.diagonal(times), weight)
    recipe = _with_diagonal(Eulerian(inside, target, Exact(), given), times, weight, diagonal_share, still)
    if tangent is head:
        recipe += (Term(Matching(target, given, auxiliary), None, weight),)
    return tuple(replace(term, prepare=prepare) for term in recipe)


@method(needs=("progress",))
def alpha_flow(
    ratio: Coefficient = sigmoid(0.0, 1.0),
    rescaled: bool = False,
    clamp: float | None = None,
    times: Times = IMAGENET,
    diagonal_share: float = 0.25,
    c: float = 1e-3,
    velocity: Velocity = conditional,
) -> Recipe:
    """alpha-Flow, eq. (21), (25): trajectory flow matching annealed into MeanFlow, which is an annealed coefficient; arXiv 2510.20771.

    Needs `progress`. `rescaled` removes the dip of the published weight before the switch. Guided settings of the source: `clamp=4`,
    `diagonal_share=0.5` at XL/2.
    """
    plain = adaptive(1.0, c, "mean")
    still = Term(Matching(velocity, shown(velocity)), at_times.diagonal(times), plain)
    moving = Eulerian(velocity, velocity, Backward(ratio, clamp), shown(velocity))
    return _with_diagonal(moving, times, plain if rescaled else alpha(ratio, c), diagonal_share, still)


@method(needs=("progress",), coefficient=0.0)
def modular_meanflow(
    through: Coefficient = linear(0.0, 1.0, until=0.1),
    times: Times = IMAGENET,
    diagonal_share: float = 0.5,
    weight: Weight = adaptive(0.5, 1e-3, "mean"),
) -> Recipe:
    """Modular MeanFlow, eq. (15): the share `through` of the gradient flows through the derivative, warmed up from 0; arXiv 2508.17426.

    Needs `progress` for the default warm-up; its length and the other settings are ours or of unofficial code, the paper's are unknown.
    """
    return meanflow(times, diagonal_share, weight, rate=Exact(through))


@method(needs=("progress",), coefficient=0.0)
def curriculum_meanflow(
    times: Times = IMAGENET,
    power: float = 1.0,
    diagonal_share: float = 0.75,
    weight: Weight = adaptive(1.0, 1e-2),
    emphasis: Callable[[Bridge], Tensor] = min_snr(),
    diagonal_times: Times | None = None,
) -> Recipe:
    """MeanFlow with short gaps first and weighted instants, eq. (26); arXiv 2511.19065. Needs `progress`.

    `emphasis` weights the `r = t` rows; `diagonal_times` draws them from another density instead. The source's exact forms of both are
    unknown to us: the Min-SNR default is ours.
    """
    short = shrinking_gap(1 / (1 - at_times.mean_gap(times)), power)
    still = Term(Matching(), at_times.diagonal(diagonal_times or times), times_factor(weight, emphasis))
    return _with_diagonal(Eulerian(), times, times_factor(weight, short), diagonal_share, still)


@method(slot="arrival", proxies=("ema", "own"))
def terminal_velocity(
    arrival: Velocity | nn.Module | None = None,
    guidance: LabelDropout | None = None,
    scales: tuple[float, float] = (1.0, 2.0),
    times: Times = at_times.gap_first(),
    instants: Times = at_times.instants(-0.4, 1.0),
    through: Coefficient = 1.0,
) -> Recipe:
    """Terminal velocity matching, eq. (8), (30), with the gradient through the derivative in `r`; arXiv 2511.19797.

    `arrival`: the EMA copy (decay 0.99 as published) that gives the velocity at the arrival point, or `velocities.own`. Each row also
    gets flow matching at an independent time. With `guidance` the field must be `fields.Scaled` and is given a random scale; the
    published range of scales is unknown to us.
    """
    _expect_dropout(guidance)
    there = _source(arrival, "terminal_velocity", "the velocity at the arrival point")
    jump = Lagrangian(there, through)
    if guidance is None:
        return (Term(jump, times), Term(Matching(), instants))
    draw, hide, weight = random_scale(*scales), guidance, times_factor(constant, inverse_square_scale)

    def prepare(b: Bridge) -> Bridge:
        return hide(draw(b))

    match = Matching(scaled_guided(conditional, guidance, there))
    return (Term(jump, times, weight, prepare=prepare), Term(match, instants, weight, prepare=prepare))


@method(
    needs=("couplings",),
    unread="its rows are pairs of data and noise from an earlier network, and diagnose draws noise of its own, which is "
    "another training: read the network with --recipe meanflow, or measure the pairs with meanstep.probes",
)
def rectified_meanflow(
    times: Times = at_times.u_shaped(),
    diagonal_share: float = 0.75,
    weight: Weight = adaptive(0.5, 1e-2, "mean"),
    velocity: Velocity = conditional,
) -> Recipe:
    """MeanFlow on rectified couplings: call the loss with `x, noise=` from `samplers.couplings`; arXiv 2511.23342."""
    return meanflow(times, diagonal_share, weight, velocity)


@method(needs=("learned weight",), coefficient=0.0)
def decoupled_meanflow(
    velocity: Velocity = conditional,
    times: Times = at_times.sorted_pair(),
    instants: Times = at_times.instants(0.0, 1.0),
    weight: Weight | None = None,
) -> Recipe:
    """Decoupled MeanFlow: flow matching and MeanFlow on every row under one learned Cauchy weight, eq. (27), (33); arXiv 2510.24474.

    Meant for a `fields.Decoupled` network that starts from a flow-matching one. Model guidance of the source:
    `velocity=Guided(conditional, dropout, omega=1, kappa=0.6, window=(0, 0.7))`.
    """
    shared = weight or Cauchy()
    return (
        Term(Matching(velocity, shown(velocity)), instants, shared, scale=0.5),
        Term(Eulerian(velocity, velocity, Exact(), shown(velocity)), times, shared, scale=0.5),
    )


@method(slot="teacher", proxies=("conditional", "own", "ema", "posterior"))
def split_meanflow(
    teacher: Velocity | nn.Module = conditional, times: Times = at_times.uniform, diagonal_share: float = 0.5, by: Field | None = None
) -> Recipe:
    """SplitMeanFlow, eq. (9) at a uniform split; arXiv 2507.16884. Without a teacher it needs 80 to 90 percent `r = t` rows early on.

    `teacher`: the velocity of the `r = t` rows; `by`: the field that makes the two jumps (None: the trained one). Times are ours.
    """
    source = _source(teacher, "split_meanflow", "a teacher")
    if shown(source) is not as_is:
        raise ValueError("split_meanflow makes its jumps with the labels it is given and cannot drop them: use a guided teacher field")
    still = Term(Matching(source), at_times.diagonal(times))
    return _with_diagonal(Semigroup(random_split, by), times, constant, diagonal_share, still)


@method(needs=("progress",))
def solution_flow(
    ratio: Coefficient = exponential(0.1, 0.002),
    diagonal_share: float = 0.75,
    times: Times = at_times.logit_normal_pair((0.2, 0.8), (-1.0, 0.8)),
    instants: Times = at_times.instants(-0.2, 1.0),
    weight: Weight = adaptive(1.0, 1e-2, "mean"),
    velocity: Velocity = conditional,
) -> Recipe:
    """SoFlow: the Euler form of the discrete target, eq. (21), at a shrinking step of at least 1e-4; arXiv 2512.15657. Needs `progress`.

    The published loss has the right gradient and a meaningless value; here the value is the weighted residual with that gradient.
    """

    ratio = checked(ratio, "ratio")

    def step(b: Bridge) -> Tensor:
        return (1e-4 / b.gap.clamp(min=1e-4)).clamp(min=at(ratio, b))

    half = times_factor(weight, lambda b: 0.5)
    still = Term(Matching(velocity, shown(velocity)), instants, weight)
    return _with_diagonal(
        Eulerian(velocity, velocity, Backward(step), shown(velocity)), at_times.separated(times), half, diagonal_share, still
    )


@method()
def transition(times: Times = IMAGENET, step: float = 0.005, c: float = 1e-5, target: Velocity = conditional) -> Recipe:
    """TiM's differential objective by a central difference along the conditional path, eq. (23), (34); arXiv 2509.04394.

    Rows: 40 percent any gap, 10 percent `r = 0`, half `r = t`. Its feature-alignment loss is not part of this recipe.
    """
    weight = times_factor(adaptive(1.0, c, "mean"), tangent_gap)
    jump = Eulerian(conditional, target, Central(step), shown(target))
    return (
        Term(jump, times, weight, 0.4),
        Term(jump, at_times.terminal(times), weight, 0.1),
        Term(Matching(target, shown(target)), at_times.diagonal(times), weight, 0.5),
    )


@method(slot="by", proxies=("ema", "own"), field=True)
def shortcut(by: Field | None = None, levels: int = 7, bootstrap_share: float = 1 / 8, clamp: float | None = 4.0) -> Recipe:
    """Shortcut models, eq. (9) at halves of dyadic gaps; the finest gap `2^-levels` learns the velocity; arXiv 2410.12557.

    `by`: the EMA copy (decay 0.999 as published) that makes the two half jumps. The `clamp` fits images scaled to unit variance.
    """
    if not callable(by):
        remedy = "pass by=ema (an EMA copy of the network), or the network itself"
        raise ValueError(f"shortcut needs the field that makes the half jumps: {remedy}, got {by!r}")
    half = Term(Semigroup(0.5, by, clamp), at_times.dyadic(range(levels)), share=bootstrap_share)
    return (half, Term(Matching(), at_times.dyadic((levels,)), share=1 - bootstrap_share))


@method(slot="tangent", proxies=("head", "own"), needs=("data prediction",), coefficient=1.0)
def pixel_meanflow(
    floor: float = 0.05,
    tangent: Velocity = head,
    guidance: LabelDropout | None = None,
    scale_power: float = 1.0,
    times: Times = at_times.logit_normal(0.8, 0.8),
    diagonal_share: float = 0.5,
) -> Recipe:
    """Pixel MeanFlow: improved MeanFlow on a network that predicts data, eq. (32); arXiv 2601.22158.

    The field is `fields.DataPrediction(net, floor)` with the same `floor`. The perceptual terms of the source are not part of this recipe.
    """
    return improved_meanflow(
        tangent, guidance, scale_power=scale_power, times=times, diagonal_share=diagonal_share, velocity=floored(conditional, floor)
    )
