"""The Eulerian identity by a difference in place of the derivative."""

from collections.abc import Callable

from torch import Tensor

from meanstep import coefficients
from meanstep import times as at_times
from meanstep.auxiliary import Directional
from meanstep.coefficients import at, checked, exponential, halving, sigmoid
from meanstep.objectives import Eulerian, Matching
from meanstep.rates import Backward, Central
from meanstep.recipes.shares import IMAGENET, with_diagonal
from meanstep.terms import Recipe, Term, method
from meanstep.types import Bridge, Coefficient, Times, Velocity, Weight
from meanstep.values import value
from meanstep.velocities import conditional, shown
from meanstep.weights import adaptive, alpha, tangent_gap, times_factor


@value
def stepped(ratio: Coefficient) -> Callable[[Bridge], Tensor]:
    """The share of the gap that a step takes, at least 1e-4 of time."""

    def step(b: Bridge) -> Tensor:
        return (1e-4 / b.gap.clamp(min=1e-4)).clamp(min=at(ratio, b))

    return step


@method(needs=("progress",))
def alpha_flow(
    ratio: Coefficient = sigmoid(0.0, 1.0),
    rescaled: bool = False,
    clamp: float | None = None,
    times: Times = IMAGENET,
    diagonal_share: float = 0.25,
    c: float = 1e-3,
    velocity: Velocity = conditional,
    instants: Times = at_times.instants(-0.4, 1.0),
) -> Recipe:
    """alpha-Flow, eq. (21), (25): trajectory flow matching annealed into MeanFlow, which is an annealed coefficient; arXiv 2510.20771.

    Needs `progress`. Settings of the source: B/2 `diagonal_share=0.25` guided, 0.5 unguided; XL/2 `ratio=sigmoid(0.5, 0.8333)`,
    `diagonal_share=0.5`, `clamp=4`. Guided: `Guided(conditional, LabelDropout(null, inside=window), omega, kappa, window,
    dropped="guided")`.

    - `ratio` ([0, 1] or a function of the bridge; `sigmoid(0.0, 1.0)` over the whole training; published): the step as a share of the gap.
    - `rescaled` (true or false; false; published): true removes the dip of the published weight before the switch, which is ours.
    - `clamp` (a bound of the target's entries, positive, or None; None; published, unguided).
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published).
    - `diagonal_share` ([0, 1]; 0.25; published): the share of rows with `r = t`.
    - `c` (a squared error, positive; 1e-3; published): the constant of the weight.
    - `velocity` (a velocity; `conditional`; published): target and tangent; a `Guided` guides and hides labels.
    - `instants` (times in [0, 1]; one logit-normal of mean -0.4 and std 1; published): of the `r = t` rows.
    """
    plain = adaptive(1.0, c, "mean")
    still = Term(Matching(velocity, shown(velocity)), instants, plain)
    moving = Eulerian(velocity, velocity, Backward(ratio, clamp), shown(velocity))
    return with_diagonal(moving, times, plain if rescaled else alpha(ratio, c), diagonal_share, still)


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

    - `ratio` ([0, 1] or a function of the bridge; `exponential(0.1, 0.002)`; published): the step as a share of the gap.
    - `diagonal_share` ([0, 1]; 0.75; published): the share of rows with `r = t`; CIFAR has 0.
    - `times` (pairs `0 <= r < t <= 1`; logit-normals of mean 0.2 for `t` and -1 for `r`, std 0.8; published).
    - `instants` (times in [0, 1]; a logit-normal of mean -0.2 and std 1; published): of the flow-matching rows.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2, "mean")`; published).
    - `velocity` (a velocity; `conditional`; published, unguided): target and step; `velocities.faded(dropout)` is the published guidance.
    """
    half = times_factor(weight, coefficients.constant(0.5))
    still = Term(Matching(velocity, shown(velocity)), instants, weight)
    return with_diagonal(
        Eulerian(velocity, velocity, Backward(stepped(checked(ratio, "ratio"))), shown(velocity)),
        at_times.separated(times),
        half,
        diagonal_share,
        still,
    )


@method(needs=("progress",))
def discrete_meanflow(
    ratio: Coefficient = halving(8),
    times: Times = IMAGENET,
    diagonal_share: float = 0.25,
    weight: Weight = adaptive(1.0, 1e-2),
    velocity: Velocity = conditional,
) -> Recipe:
    """A discrete MeanFlow curriculum, eq. (21): the step as a share of the gap is halved in stages; after arXiv 2604.08837.

    Needs `progress`. Meant to start from a flow-matching network. The source's stages, times and weights are unknown to us.

    - `ratio` ([0, 1] or a function of the bridge; `halving(8)`, from 1 to 1/128; ours).
    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; ours, MeanFlow's).
    - `diagonal_share` ([0, 1]; 0.25; ours): the share of rows with `r = t`.
    - `weight` (a function of a row's error; `adaptive(1.0, 1e-2)`; ours, MeanFlow's).
    - `velocity` (a velocity; `conditional`; published): target and step; a `Guided` guides and hides labels.
    """
    still = Term(Matching(velocity, shown(velocity)), at_times.diagonal(times), weight)
    jump = Eulerian(velocity, velocity, Backward(ratio), shown(velocity))
    return with_diagonal(jump, times, weight, diagonal_share, still)


@method()
def transition(
    times: Times = IMAGENET, step: float = 0.005, c: float = 1e-5, target: Velocity = conditional, directional: bool = True
) -> Recipe:
    """TiM's differential objective by a central difference along the conditional path, eq. (23), (34); arXiv 2509.04394.

    Rows: 40 percent any gap, 10 percent `r = 0`, half `r = t`, as published. Its feature-alignment loss is `auxiliary.aligned`.

    - `times` (pairs `0 <= r <= t <= 1`; two sorted logit-normals of mean -0.4 and std 1; published).
    - `step` (a time, positive; 0.005; published): of the difference, to either side.
    - `c` (a squared error, positive; 1e-5; published): the constant of the adaptive weight.
    - `target` (a velocity; `conditional`; published, unguided): what is regressed on; a `Guided` guides and hides labels, the source's with
      `dropped="true"` and `by` an EMA copy.
    - `directional` (true or false; true; published): add 1 - cosine of the field and its target to the error under the weight.
    """
    inside = Directional() if directional else None
    weight = times_factor(adaptive(1.0, c, "mean"), tangent_gap)
    jump = Eulerian(conditional, target, Central(step), shown(target))
    return (
        Term(jump, times, weight, 0.4, inside=inside),
        Term(jump, at_times.terminal(times), weight, 0.1, inside=inside),
        Term(Matching(target, shown(target)), at_times.diagonal(times), weight, 0.5, inside=inside),
    )
