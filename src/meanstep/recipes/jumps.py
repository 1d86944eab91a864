"""The Lagrangian and the semigroup identity: terminal velocity matching, and jumps made of shorter ones."""

from torch import nn

from meanstep import boundary
from meanstep import times as at_times
from meanstep.objectives import Lagrangian, Matching, Semigroup, random_split
from meanstep.recipes.shares import expect_dropout, source_of, with_diagonal
from meanstep.terms import Recipe, Term, method
from meanstep.types import Coefficient, Field, Times, Velocity
from meanstep.velocities import LabelDropout, ScaledRows, as_is, conditional, random_scale, scaled_guided, shown
from meanstep.weights import constant, inverse_square_scale, times_factor


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

    Each row also gets flow matching at an independent time.

    - `arrival` (a velocity, or a module whose boundary is taken; none, it is needed; published): the velocity at the arrival point, an EMA
      copy (decay 0.99 as published), or `velocities.own`.
    - `guidance` (a `LabelDropout`, or None; None; ours): the field must then be `fields.Scaled` and is given a random scale; the published
      runs have guidance.
    - `scales` (two guidance scales, `0 < low <= high`; (1, 2); ours, the released runs have one scale, such as 2).
    - `times` (pairs `0 <= r <= t <= 1`; `gap_first()`; published): of the jumps.
    - `instants` (times in [0, 1]; a logit-normal of mean -0.4 and std 1; published): of the flow-matching rows.
    - `through` ([0, 1] or a function of the bridge; 1; published): the share of the gradient that flows through the derivative.

    `ValueError` without the arrival's velocity, and out of these ranges.
    """
    expect_dropout(guidance)
    boundary.rising("scales, the guidance scales,", scales, 0, above=True)
    there = source_of(arrival, "terminal_velocity", "the velocity at the arrival point")
    jump = Lagrangian(there, through)
    if guidance is None:
        return (Term(jump, times), Term(Matching(), instants))
    prepare, weight = ScaledRows(random_scale(*scales), guidance), times_factor(constant, inverse_square_scale)
    match = Matching(scaled_guided(conditional, guidance, there))
    return (Term(jump, times, weight, prepare=prepare), Term(match, instants, weight, prepare=prepare))


@method(slot="teacher", proxies=("conditional", "own", "ema", "posterior"))
def split_meanflow(
    teacher: Velocity | nn.Module = conditional, times: Times = at_times.uniform, diagonal_share: float = 0.5, by: Field | None = None
) -> Recipe:
    """SplitMeanFlow, eq. (9) at a uniform split; arXiv 2507.16884. Without a teacher it needs 80 to 90 percent `r = t` rows early on.

    - `teacher` (a velocity, or a module whose boundary is taken; `conditional`; published): the velocity of the `r = t` rows.
    - `times` (pairs `0 <= r <= t <= 1`; two sorted uniforms; ours).
    - `diagonal_share` ([0, 1]; 0.5; published as the least): the share of rows with `r = t`.
    - `by` (a field, or None for the trained one; None; published): the field that makes the two jumps.

    `ValueError` without a teacher, and for a guided velocity, whose hidden labels the jumps would see.
    """
    source = source_of(teacher, "split_meanflow", "a teacher")
    if shown(source) is not as_is:
        raise ValueError("split_meanflow makes its jumps with the labels it is given and cannot drop them: use a guided teacher field")
    still = Term(Matching(source), at_times.diagonal(times))
    return with_diagonal(Semigroup(random_split, by), times, constant, diagonal_share, still)


@method(slot="by", proxies=("ema", "own"), field=True)
def shortcut(by: Field | None = None, levels: int = 7, bootstrap_share: float = 1 / 8, clamp: float | None = 4.0) -> Recipe:
    """Shortcut models, eq. (9) at halves of dyadic gaps; the finest gap `2^-levels` learns the velocity; arXiv 2410.12557.

    - `by` (a field; none, it is needed; published): the EMA copy (decay 0.999 as published) that makes the two half jumps.
    - `levels` (a number of halvings, at least 1; 7; published): gaps are `2^0` to `2^-levels`.
    - `bootstrap_share` ((0, 1); 1/8; published): the share of rows that make jumps.
    - `clamp` (a bound of the target's entries, positive, or None; 4; published): fits images scaled to unit variance.

    `ValueError` without the field, and out of these ranges.
    """
    boundary.whole("levels, the number of halvings,", levels, 1)
    boundary.number("the share of rows that make jumps", bootstrap_share, 0, 1, above=True, below=True)
    if not callable(by):
        remedy = "pass by=ema (an EMA copy of the network), or the network itself"
        raise ValueError(f"shortcut needs the field that makes the half jumps: {remedy}, got {by!r}")
    half = Term(Semigroup(0.5, by, clamp), at_times.dyadic(range(levels)), share=bootstrap_share)
    return (half, Term(Matching(), at_times.dyadic((levels,)), share=1 - bootstrap_share))
