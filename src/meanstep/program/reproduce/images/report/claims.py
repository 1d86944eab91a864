"""The claims of arXiv 2605.09235 about DiT-B/4 on ImageNet latents, and ours, each with a test that was stated before any number was seen.

The full text of the paper was not at hand: its numbers are quoted from summaries, and are of another network on other data at another
scale. Unless said otherwise a distance is that of one-step samples under EMA weights. Knows no figures and no page.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf

from meanstep.program.pages.statistics import Change, ratio
from meanstep.program.pages.verdicts import HIGHER, LOWER, Claim, Range, Row, claim
from meanstep.program.reproduce.images.arms import ANCHORED
from meanstep.program.reproduce.images.report import costs, optima
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.beats import BEATS, beats
from meanstep.program.reproduce.images.report.converged import far, undecided
from meanstep.program.reproduce.images.report.results import CENTER_WORDS, CENTERS, Results, Seeds

PAPER = "arXiv 2605.09235, quoted from summaries"
OURS = "ours: nobody claimed it"
FID_OF_PAPER = {0.0: 11.37, 0.25: 11.76, 0.5: 12.51, 1.0: 23.36}
INSIDE: Range = (0.02, 0.98)
MATRIX: tuple[Range, Range] = (0.89, 0.99), (0.84, 1.04)
NORM: tuple[Range, Range] = (0.46, 0.50), (0.44, 0.52)
TIMES_AT_LEVEL, TIMES_GROWN, TIMES_AMPLIFIED = 71, 100, 2.6
FLAT: Range = (0.5, 2.0)
CONSTANTS = "it needs the constants 0, 0.25, 0.5 and 1 (--arms constants)"
PROBED = "it needs the constant 0 with its probes (--arms constants)"


def claims(results: Results) -> list[Claim]:
    """All of them, decided or not."""
    made = [make(results) for make in CLAIMS] + [beats(results, terms, key) for key, terms in BEATS.items()]
    return [undecided(each, results) for each in made] if far(results) else made


def values(found: Seeds) -> Change:
    """Numbers by seed that are no ratios."""
    return Change(tuple(found.values()), logs=False)


def optimum(results: Results, center: str, rule: str = "matrix") -> Change:
    """The coefficient of least error on the weights of the constant 0 at the end, not clipped."""
    return values(q.error_optimal(results, results.base, results.end, center, rule, clip=False))


def _optima(results: Results, rule: str, claimed: Range, shown: Range, paper: str) -> list[Row]:
    rows = [(CENTER_WORDS[center], optimum(results, center, rule)) for center in CENTERS]
    return [Row(where, change, paper, claimed, shown, against_none=False) for where, change in rows]


def _elsewhere(results: Results) -> list[Row]:
    arms = [arm for arm in results.constants if arm.beta]
    found = [(arm, values(q.error_optimal(results, arm, results.end, "data", clip=False))) for arm in arms]
    return [Row(f"on the weights trained at β = {arm.beta:g}", change, against_none=False) for arm, change in found]


def _interior(results: Results) -> Claim:
    return claim(
        "error-interior",
        "The error of the training signal is least at a coefficient between 0 and 1, not at an end.",
        PAPER,
        f"The β that minimises M(β), eq. (20), on the weights trained at β = 0, at the end: between {INSIDE[0]:g} and {INSIDE[1]:g}, "
        "whichever velocity is taken for the true one.",
        "β of least error",
        [*_optima(results, "matrix", INSIDE, (0.0, 1.0), "0.94"), *_elsewhere(results)],
        PROBED,
    )


def _matrix(results: Results) -> Claim:
    return claim(
        "error-matrix",
        "That coefficient is near 0.94.",
        PAPER,
        f"The same β: contradicted outside {MATRIX[0][0]:g} to {MATRIX[0][1]:g}.",
        "β of least error",
        _optima(results, "matrix", *MATRIX, "0.94"),
        PROBED,
    )


def _norm(results: Results) -> Claim:
    return claim(
        "error-norm",
        "The scalar form of the optimum, with norms instead of the matrix, gives 0.46 to 0.50.",
        PAPER,
        f"Eq. (19) with |κ| on the weights trained at β = 0, at the end: contradicted outside {NORM[0][0]:g} to {NORM[0][1]:g}.",
        "β of the scalar form",
        _optima(results, "norm", *NORM, "0.46 to 0.50"),
        PROBED,
    )


def _noisier(results: Results) -> Claim:
    change = q.tangents_ratio(results, results.end)
    return claim(
        "loss-noisier",
        "Near the noise end the loss varies more with the conditional tangent than with the EMA copy's.",
        PAPER,
        f"Variance over rows of the loss at t = {q.LEVEL_T:g}, conditional over EMA, weights trained at β = 0, at the end: above 1.",
        "Ratio of variances",
        [Row(f"t = {q.LEVEL_T:g}", change, f"{TIMES_AT_LEVEL}", *HIGHER)],
        PROBED,
    )


def _size(results: Results) -> Claim:
    claimed = (TIMES_AT_LEVEL / 2, TIMES_AT_LEVEL * 2.0)
    return claim(
        "loss-size",
        f"It varies about {TIMES_AT_LEVEL} times as much.",
        PAPER,
        f"The same ratio: contradicted outside half to twice of {TIMES_AT_LEVEL}.",
        "Ratio of variances",
        [Row(f"t = {q.LEVEL_T:g}", q.tangents_ratio(results, results.end), f"{TIMES_AT_LEVEL}", claimed, (1.0, inf))],
        PROBED,
    )


def _grows(results: Results) -> Claim:
    claimed = (TIMES_GROWN / 2, TIMES_GROWN * 2.0)
    return claim(
        "loss-grows",
        f"With the conditional tangent the loss's variance grows about {TIMES_GROWN} times over t.",
        PAPER,
        "Variance at the largest measured t over that at the smallest, weights trained at β = 0, at the end: contradicted outside "
        f"{claimed[0]:g} to {claimed[1]:g}.",
        "Growth over t",
        [Row("conditional tangent", q.growth(results, "conditional"), f"about {TIMES_GROWN}", claimed, (1.0, inf))],
        PROBED,
    )


def _flat(results: Results) -> Claim:
    return claim(
        "loss-flat",
        "With the EMA copy's tangent it is flat in t.",
        PAPER,
        f"The same growth: contradicted outside {FLAT[0]:g} to {FLAT[1]:g}, agreed inside.",
        "Growth over t",
        [Row("EMA tangent", q.growth(results, "ema"), "flat", FLAT, FLAT)],
        PROBED,
    )


def _papers(results: Results, seen: int | None) -> Iterator[tuple[float, str, Seeds]]:
    """The paper's four models: the last has the anchor, or none where the study has no such arm."""
    for beta in FID_OF_PAPER:
        anchored = results.constant(beta, ANCHORED) if beta == 1 else None
        arm = anchored or results.constant(beta)
        if arm:
            yield beta, f"β = {beta:g}{' with the anchor' if anchored else ''}", results.distance(arm, seen)


def _worse(results: Results) -> Claim:
    found = {beta: (words, seeds) for beta, words, seeds in _papers(results, results.end)}
    base = found.get(0.0, ("", {}))[1]
    rows = [
        Row(words, ratio(seeds, base), f"{FID_OF_PAPER[beta] / FID_OF_PAPER[0.0]:.3f}", *HIGHER)
        for beta, (words, seeds) in found.items()
        if beta
    ]
    if results.constant(1.0, ANCHORED):
        rows.append(Row("β = 1 without the anchor", q.equal_steps(results, results.constant(1.0), results.base)))
    return claim(
        "quality-worse",
        "Every coefficient above 0 makes one-step samples worse than β = 0.",
        PAPER,
        "Distance over that at β = 0 after the same samples, paired by seed: each above 1.",
        "Distance over that at β = 0",
        rows,
        CONSTANTS,
    )


def _steps_between(results: Results, seen: int | None) -> Iterator[tuple[str, Change, str]]:
    for (low, _, a), (high, words, b) in pairwise(_papers(results, seen)):
        yield f"{words} over β = {low:g}", ratio(b, a), f"{FID_OF_PAPER[high] / FID_OF_PAPER[low]:.3f}"


def _order(results: Results) -> Claim:
    return claim(
        "quality-order",
        "One-step samples get worse with every step of the coefficient: 0, 0.25, 0.5, 1.",
        PAPER,
        "Distance over that at the coefficient before, after the same samples, paired by seed: each above 1.",
        "Distance over the one before",
        [Row(words, change, paper, *HIGHER) for words, change, paper in _steps_between(results, results.end)],
        CONSTANTS,
    )


def _always(results: Results) -> Claim:
    moments = [seen for seen in results.moments if results.end and seen <= results.end]
    rows = [Row(f"{seen:,}: {words}", change, "", *HIGHER) for seen in moments for words, change, _ in _steps_between(results, seen)]
    return claim(
        "quality-always",
        "That order holds all through training, at every measured moment.",
        f"{PAPER}: 54 checkpoints",
        "The same ratios at every moment, with Holm's correction over all of them: each above 1.",
        "Distance over the one before",
        rows,
        CONSTANTS,
    )


def _mismatch(results: Results) -> Claim:
    return optima.in_one_step(results, PAPER, f"{CONSTANTS} with their probes")


def _mismatch_more(results: Results) -> Claim:
    return optima.in_more_steps(results, OURS, f"{CONSTANTS} with their probes")


def _amplified(results: Results) -> Claim:
    arm = results.constant(1.0, ANCHORED) or results.constant(1.0)
    found = [(center, q.amplification(results, arm, center)) for center in CENTERS] if arm else []
    rows = [Row(f"β = 1, {CENTER_WORDS[center]}", change, f"{TIMES_AMPLIFIED:g}", *HIGHER) for center, change in found]
    for constant in results.constants:
        if constant.beta and constant is not arm:
            rows.append(Row(f"{constant.name}, {CENTER_WORDS['data']}", q.amplification(results, constant, "data")))
    return claim(
        "amplified",
        "From β = 0 to β = 1 the distance grows more than the error does: the bias is amplified.",
        f"{PAPER}: 2.6 times, by a definition that is not known to us; the one here is ours",
        "Distance at β = 1 over β = 0, over the same ratio of M on the weights trained at β = 0, by seed: above 1.",
        "[d(1) / d(0)] / [M(1) / M(0)]",
        rows,
        f"{CONSTANTS} with their probes",
    )


def _costs_inner(results: Results) -> Claim:
    return costs.interior(results, PAPER)


def _costs_full(results: Results) -> Claim:
    return costs.anchored(results, PAPER)


def _anchor(results: Results) -> Claim:
    pairs = [(arm, results.constant(arm.beta)) for arm in results.arms if arm.family == ANCHORED and arm.beta is not None]
    rows = [Row(f"{arm.name} over {plain.name}", q.equal_steps(results, arm, plain), "", *LOWER) for arm, plain in pairs if plain]
    rows += [Row(f"{a.name} over {p.name}, same compute", q.equal_compute(results, a, p)) for a, p in pairs if p]
    return claim(
        "anchor",
        "The flow-matching anchor by itself makes one-step samples better, at the same coefficient.",
        OURS,
        "Distance with the anchor over that without, after the same samples, paired by seed: each below 1.",
        "Distance with the anchor over without",
        rows,
        "it needs constants with and without the anchor (--arms constants anchors)",
    )


CLAIMS: tuple[Callable[[Results], Claim], ...] = (
    _interior,
    _matrix,
    _norm,
    _noisier,
    _size,
    _grows,
    _flat,
    _worse,
    _order,
    _always,
    _mismatch,
    _mismatch_more,
    _amplified,
    _costs_inner,
    _costs_full,
    _anchor,
)
