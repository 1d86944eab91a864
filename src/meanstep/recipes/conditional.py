"""MeanFlow with the conditional velocity as tangent, and flow matching."""

from collections.abc import Callable

from torch import Tensor

from meanstep import times as at_times
from meanstep.coefficients import linear
from meanstep.objectives import Eulerian, Matching
from meanstep.rates import Exact
from meanstep.recipes.shares import IMAGENET, with_diagonal
from meanstep.terms import Recipe, Term, method
from meanstep.types import Bridge, Coefficient, Rate, Times, Velocity, Weight
from meanstep.velocities import (
    conditional,
    shown,
)
from meanstep.weights import Cauchy, adaptive, constant, min_snr, shrinking_gap, times_factor


@method(learns="instantaneous")
def flow_matching(times: Times = at_times.instants(-0.4, 1.0), weight: Weight = constant, velocity: Velocity = conditional) -> Recipe:
    """Flow matching, eq. (7) at `r = t`; arXiv 2210.02747.

    - `times` (times in [0, 1]; `instants(-0.4, 1.0)`; published): the single logit-normal of MeanFlow's setting; only its `t` is used.
    - `weight` (a function of a row's error; `constant`; published): the mean squared error itself.
    - `velocity` (a velocity; `conditional`; published): what is regressed on; a `Guided` guides and hides labels.
    """
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

    For CIFAR `times=logit_normal_pair()`, `diagonal_share=0.25`, `weight=adaptive(0.75, 1e-3)` are published. The published code drops
    labels on `r = t` rows alone, `LabelDropout(null, rows="instant")`. FastGen's options: `rates.Warmed`, `weights.normed`, and a
    teacher's velocity, `velocities.of(teacher)`.

    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published): the sampler of `(r, t)`.
    - `diagonal_share` ([0, 1]; 0.75; published): the share of rows with `r = t`, which learn the plain velocity.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2)`, power and constant; published).
    - `velocity` (a velocity; `conditional`; published): target and tangent; `Guided(conditional, LabelDropout(null), omega, kappa)` guides.
    - `rate` (a way to differentiate; `Exact()`; published): `Backward` and `Central` need no forward mode.
    """
    still = Term(Matching(velocity, shown(velocity)), at_times.diagonal(times), weight)
    return with_diagonal(Eulerian(velocity, velocity, rate, shown(velocity)), times, weight, diagonal_share, still)


@method(needs=("progress",), coefficient=0.0)
def modular_meanflow(
    through: Coefficient = linear(0.0, 1.0, until=0.1),
    times: Times = IMAGENET,
    diagonal_share: float = 0.5,
    weight: Weight = adaptive(0.5, 1e-3, "mean"),
) -> Recipe:
    """Modular MeanFlow, eq. (15): the share `through` of the gradient flows through the derivative, warmed up from 0; arXiv 2508.17426.

    Needs `progress` for the default warm-up.

    - `through` ([0, 1] or a function of the bridge; `linear(0.0, 1.0, until=0.1)`; ours, the published length is unknown).
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; ours, of unofficial code).
    - `diagonal_share` ([0, 1]; 0.5; ours, of unofficial code): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(0.5, 1e-3, "mean")`; ours, of unofficial code).
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

    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published).
    - `power` (a positive number; 1; published): the curriculum's strength falls as `1 - progress^power`.
    - `diagonal_share` ([0, 1]; 0.75; published): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2)`; published).
    - `emphasis` (a factor of each `r = t` row, at least 0; `min_snr()`; ours, as the source's exact form is unknown to us).
    - `diagonal_times` (times in [0, 1], or None for those of `times`; None; ours): another density of the `r = t` rows, the source's second
      form, whose exact density is unknown to us.
    """
    short = shrinking_gap(1 / (1 - at_times.mean_gap(times)), power)
    still = Term(Matching(), at_times.diagonal(diagonal_times or times), times_factor(weight, emphasis))
    return with_diagonal(Eulerian(), times, times_factor(weight, short), diagonal_share, still)


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
    """MeanFlow on rectified couplings: call the loss with `x, noise=` from `samplers.couplings`; arXiv 2511.23342.

    - `times` (pairs `0 <= r <= t <= 1`; `u_shaped()`; published).
    - `diagonal_share` ([0, 1]; 0.75; published): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(0.5, 1e-2, "mean")`; published).
    - `velocity` (a velocity; `conditional`, the pair's own; published): target and tangent; a `Guided` guides and hides labels. The
      source's second stage is `velocities.randomly_guided(dropout)`.

    Its last time is 80/81: sample by `samplers.jump(field, e, y, last=80 / 81)`.
    """
    return meanflow(times, diagonal_share, weight, velocity)


@method(needs=("learned weight",), coefficient=0.0)
def decoupled_meanflow(
    velocity: Velocity = conditional,
    times: Times = at_times.sorted_pair(),
    instants: Times = at_times.instants(0.0, 1.0),
    weight: Weight | None = None,
    fresh: bool = False,
) -> Recipe:
    """Decoupled MeanFlow: flow matching and MeanFlow on every row under one learned Cauchy weight, eq. (27), (33); arXiv 2510.24474.

    Meant for a `fields.Decoupled` network that starts from a flow-matching one.

    - `velocity` (a velocity; `conditional`; ours): the source has model guidance, `Guided(conditional, dropout, omega=1, kappa=0.6,
      window=(0, 0.7))`.
    - `times` (pairs `0 <= r <= t <= 1`; `sorted_pair()`, two logit-normals; published): of MeanFlow's rows.
    - `instants` (times in [0, 1]; a logit-normal of mean 0 and std 1; published): of the flow-matching rows.
    - `weight` (a function of a row's error, or None for a new `Cauchy()`; None; published): it serves both terms, and it learns.
    - `fresh` (true or false; false; ours): true draws another noise for the flow-matching rows, which is published.
    """
    shared = weight or Cauchy()
    return (
        Term(Matching(velocity, shown(velocity)), instants, shared, scale=0.5, fresh=fresh),
        Term(Eulerian(velocity, velocity, Exact(), shown(velocity)), times, shared, scale=0.5),
    )
