"""The claims of arXiv 2605.09235 about DiT-B/4 on ImageNet latents, and ours, each with a test that was stated before any number was seen.

The paper's numbers are those of its authors' public drafts: of another network, on other data, at another scale. Unless said otherwise a
distance is that of one-step samples under EMA weights. Knows no figures and no page.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import inf

from meanstep.program.pages.statistics import Change, ratio
from meanstep.program.pages.verdicts import FAILS, HIGHER, HOLDS, LOWER, OPEN, Range, Row, with_interval
from meanstep.program.reproduce.images import costs, optima
from meanstep.program.reproduce.images import quantities as q
from meanstep.program.reproduce.images.arms import ANCHORED
from meanstep.program.reproduce.images.caveats import caveats
from meanstep.program.reproduce.images.contests import Contest, contests, lost, noted, smallest, unmatched
from meanstep.program.reproduce.images.results import CENTER_WORDS, CENTERS, Arm, Results
from meanstep.program.reproduce.report.claims import Stated
from meanstep.program.reproduce.report.prose import some
from meanstep.program.reproduce.report.results import Seeds

PAPER, OURS = "arXiv 2605.09235, drafts", "ours: nobody claimed it"
FID_OF_PAPER = {0.0: 11.37, 0.25: 11.76, 0.5: 12.51, 1.0: 23.36}
INSIDE: Range = (0.02, 0.98)
MATRIX: tuple[Range, Range] = (0.89, 0.99), (0.84, 1.04)
NORM: tuple[Range, Range] = (0.46, 0.50), (0.44, 0.52)
TIMES_AT_LEVEL = 70
FLAT: Range = (0.5, 2.0)
CONSTANTS = "it needs the constants 0, 0.25, 0.5 and 1 (--arms constants)"
PROBED = "it needs the constant 0 with its probes (--arms constants)"


def optimum(results: Results, center: str, rule: str = "matrix", beta: float = 0.0) -> Change:
    """The coefficient of least error on the weights of a constant at the end, not clipped."""
    found = q.error_optimal(results, results.constant(beta), results.end, center, rule, clip=False)
    return Change(tuple(found.values()), logs=False)


def _optima(results: Results, rule: str, claimed: Range, shown: Range, paper: str) -> list[Row]:
    return [Row(CENTER_WORDS[c], optimum(results, c, rule), paper, claimed, shown, against_none=False) for c in CENTERS]


def _interior(results: Results) -> list[Row]:
    betas = [arm.beta for arm in results.constants if arm.beta]
    trained = [Row(f"on the weights trained at β = {b:g}", optimum(results, "data", beta=b), against_none=False) for b in betas]
    return [*_optima(results, "matrix", INSIDE, (0.0, 1.0), "0.94"), *trained]


def _times(results: Results, claimed: Range, shown: Range) -> list[Row]:
    return [Row(f"t = {q.LEVEL_T:g}", q.tangents_ratio(results, results.end), f"{TIMES_AT_LEVEL}", claimed, shown)]


def _papers(results: Results, seen: int | None) -> Iterator[tuple[float, str, Arm | None, Seeds]]:
    """The paper's four models, in the study or not: the last has the anchor, or none where the study has no such arm."""
    for beta in FID_OF_PAPER:
        anchored = results.constant(beta, ANCHORED) if beta == 1 else None
        arm = anchored or results.constant(beta)
        yield beta, f"β = {beta:g}{' with the anchor' if anchored else ''}", arm, results.distance(arm, seen)


def _worse(results: Results) -> Iterator[Row]:
    (_, _, zero, base), *rest = _papers(results, results.end)
    for beta, words, arm, seeds in rest:
        yield Row(words, ratio(seeds, base, broken=results.broke(arm, zero)), f"{FID_OF_PAPER[beta] / FID_OF_PAPER[0.0]:.3f}", *HIGHER)
    if results.constant(1.0, ANCHORED):
        yield Row("β = 1 without the anchor", q.equal_steps(results, results.constant(1.0), results.base))


def _order(results: Results, seen: int | None = None, before: str = "") -> Iterator[Row]:
    """Each of the four over the one before, and over the next one that is measured: that can contradict the order too."""
    every = [*_papers(results, seen or results.end)]
    there = [k for k, (*_, seeds) in enumerate(every) if seeds]
    for below, above in sorted({*pairwise(range(len(every))), *pairwise(there)}):
        (low, _, before_it, a), (high, words, arm, b) = every[below], every[above]
        paper = "" if before else f"{FID_OF_PAPER[high] / FID_OF_PAPER[low]:.3f}"
        yield Row(f"{before}{words} over β = {low:g}", ratio(b, a, broken=results.broke(arm, before_it)), paper, *HIGHER)


def _always(results: Results) -> list[Row]:
    return [row for seen in results.until for row in _order(results, seen, f"{seen:,}: ")]


def _amplified(results: Results) -> Iterator[Row]:
    arm = results.constant(1.0, ANCHORED) or results.constant(1.0)
    for center in CENTERS:
        yield Row(f"β = 1, {CENTER_WORDS[center]}", q.amplification(results, arm, center), "2.6", *HIGHER)
    for constant in results.constants:
        if constant.beta and constant is not arm:
            yield Row(f"{constant.name}, {CENTER_WORDS['data']}", q.amplification(results, constant, "data"))


def _inner(results: Results) -> list[Row]:
    return costs.rows(results, [arm for arm in results.constants if arm.beta and arm.beta < 1], 1.1)


def _full(results: Results) -> list[Row]:
    return costs.rows(results, [arm] if (arm := results.constant(1.0, ANCHORED)) else [], 1.2)


def _anchor(results: Results) -> list[Row]:
    pairs = [(f"{arm.name} over {plain.name if plain else f'β = {arm.beta:g}'}", arm, plain) for arm, plain in results.anchors]
    rows = [Row(where, q.equal_steps(results, arm, plain), "", *LOWER) for where, arm, plain in pairs]
    return rows + [Row(f"{where}, same compute", q.equal_compute(results, arm, plain)) for where, arm, plain in pairs]


def _beats(key: str, terms: str) -> Stated:
    """The open question: whether some arm beats every constant in one step."""
    return Stated(
        key,
        f"Some schedule or recipe beats every constant coefficient in one step, {terms}.",
        "ours: the paper leaves schedules open",
        "Against each constant there is a one-sided paired p-value, at the seeds that both have. The largest decides (intersection-union), "
        "and a row shows that constant. Holm's correction is over the arms. A constant is beaten where it broke off, an arm that broke off "
        "cannot win. The claim holds if one arm beats all constants. It does not hold if each arm is worse than some constant.",
        "Distance over that of the constant that decides",
        partial(_contests, terms=terms),
        "it needs constants and other arms (--arms constants schedules recipes)",
        partial(_won, terms=terms),
        lambda results, sentence: told(results, contests(results, terms), terms),
    )


def _contests(results: Results, terms: str) -> list[Row]:
    found = [(f"{c.arm.name} over β = {c.hardest:g}", c) for c in contests(results, terms)]
    return [Row(where, c.change, c.words, (0.0, 1.0), (0.0, 1.0), c.finding, note=c.p) for where, c in found]


def _won(results: Results, rows: Sequence[Row], terms: str) -> tuple[str, tuple[Row, ...]]:
    won, beaten = any(row.finding == "agrees" for row in rows), lost(results, contests(results, terms))
    return HOLDS if won else FAILS if beaten else OPEN, tuple(rows)


def told(results: Results, found: list[Contest], terms: str) -> str:
    """Who beats every constant, what gain could have been seen, what is missing, and what the comparison mixes in."""
    absent = noted([*(note for contest in found for note in contest.notes), *unmatched(results, terms)])
    if not found:
        return f"There are no data for it: it needs constants and other arms (--arms constants schedules recipes). {absent}".strip()
    return " ".join(said for said in (_outcome(found, terms), absent, caveats(results, terms)) if said)


def _outcome(found: list[Contest], terms: str) -> str:
    start = terms[0].upper() + terms[1:]
    if (least := smallest(found)) is None:
        return f"{start} nothing can be told: there is one seed."
    least_ratio, seeds, arms = least
    winners = [f"{c.arm.name} ({with_interval(c.change)} against β = {c.hardest:g})" for c in found if c.finding == "agrees"]
    who = f"{len(winners)} of {len(found)} {'beats' if len(winners) == 1 else 'beat'}" if winners else "none beats"
    said = f"{start} {who} every constant" + (f": {some(winners, 6)}." if winners else ".")
    behind = sum(contest.finding == "contradicts" for contest in found)
    said += f" {behind} of {len(found)} {'is' if behind == 1 else 'are'} worse than some constant." if behind else ""
    over = "" if arms == 1 else f" over {arms} arms by Holm's first step"
    return (
        f"{said} With {seeds} seeds a gain below {min(100 * (1 - least_ratio), 99):.2g} percent could hardly have been seen. That is "
        f"against one constant, one-sided at 5 percent{over}, with a power of 80 percent. To beat all of them at once takes a larger gain."
    )


CLAIMS = (
    Stated(
        "error-interior",
        "The error of the training signal is least at a coefficient between 0 and 1, not at an end.",
        PAPER,
        f"The β that minimises M(β), eq. (20), on the weights trained at β = 0, at the end: between {INSIDE[0]:g} and {INSIDE[1]:g}, "
        "whichever velocity is taken for the true one.",
        "β of least error",
        _interior,
        PROBED,
    ),
    Stated(
        "error-matrix",
        "That coefficient is near 0.94.",
        PAPER,
        f"The same β: contradicted outside {MATRIX[0][0]:g} to {MATRIX[0][1]:g}.",
        "β of least error",
        lambda results: _optima(results, "matrix", *MATRIX, "0.94"),
        PROBED,
    ),
    Stated(
        "error-norm",
        "The scalar form of the optimum, with norms instead of the matrix, gives 0.46 to 0.50.",
        PAPER,
        f"Eq. (19) with |κ| on the weights trained at β = 0, at the end: contradicted outside {NORM[0][0]:g} to {NORM[0][1]:g}.",
        "β of the scalar form",
        lambda results: _optima(results, "norm", *NORM, "0.46 to 0.50"),
        PROBED,
    ),
    Stated(
        "loss-noisier",
        "Near the noise end the loss varies more with the conditional tangent than with the EMA copy's.",
        PAPER,
        f"Variance over rows of the loss at t = {q.LEVEL_T:g}, conditional over EMA, weights trained at β = 0, at the end: above 1.",
        "Ratio of variances",
        lambda results: _times(results, *HIGHER),
        PROBED,
    ),
    Stated(
        "loss-size",
        f"It varies about {TIMES_AT_LEVEL} times as much.",
        PAPER,
        f"The same ratio: contradicted outside half to twice of {TIMES_AT_LEVEL}.",
        "Ratio of variances",
        lambda results: _times(results, (TIMES_AT_LEVEL / 2, TIMES_AT_LEVEL * 2.0), (1.0, inf)),
        PROBED,
    ),
    Stated(
        "loss-grows",
        "With the conditional tangent the loss's variance grows about 100 times over t.",
        PAPER,
        "Variance at the largest measured t over that at the smallest, trained at β = 0, at the end: contradicted outside 50 to 200.",
        "Growth over t",
        lambda results: [Row("conditional tangent", q.growth(results, "conditional"), "about 100", (50.0, 200.0), (1.0, inf))],
        PROBED,
    ),
    Stated(
        "loss-flat",
        "With the EMA copy's tangent it is flat in t.",
        PAPER,
        f"The same growth: contradicted outside {FLAT[0]:g} to {FLAT[1]:g}, agreed inside.",
        "Growth over t",
        lambda results: [Row("EMA tangent", q.growth(results, "ema"), "flat", FLAT, FLAT)],
        PROBED,
    ),
    Stated(
        "quality-worse",
        "Every coefficient above 0 makes one-step samples worse than β = 0.",
        PAPER,
        "Distance over that at β = 0 after the same samples, paired by seed: each above 1.",
        "Distance over that at β = 0",
        _worse,
        CONSTANTS,
    ),
    Stated(
        "quality-order",
        "One-step samples get worse with every step of the coefficient: 0, 0.25, 0.5, 1.",
        PAPER,
        "Distance over that at the coefficient before, after the same samples, paired by seed: each above 1.",
        "Distance over the one before",
        _order,
        CONSTANTS,
    ),
    Stated(
        "quality-always",
        "That order holds all through training, at every measured moment.",
        f"{PAPER}: 54 checkpoints",
        "The same ratios at every moment, with Holm's correction over all of them: each above 1.",
        "Distance over the one before",
        _always,
        CONSTANTS,
    ),
    optima.stated(
        "mismatch", "The coefficient of least error is larger than the one of the best one-step samples.", PAPER, lambda results: ("1",)
    ),
    optima.stated(
        "mismatch-steps",
        "It is larger than the one of the best samples in more steps too.",
        OURS,
        lambda results: [n for n in results.steps if n != "1"],
    ),
    Stated(
        "amplified",
        "From β = 0 to β = 1 the distance grows more than the error does: the bias is amplified.",
        f"{PAPER}: 2.6 times, the excess of FID at 1 over four times that at 0.5; the definition here is ours",
        "Distance at β = 1 over β = 0, over the same ratio of M on the weights trained at β = 0, by seed: above 1.",
        "[d(1) / d(0)] / [M(1) / M(0)]",
        _amplified,
        f"{CONSTANTS} with their probes",
    ),
    Stated(
        "costs-interior",
        "A coefficient between 0 and 1 costs 10 percent more time than β = 0.",
        PAPER,
        "Processor seconds of training over those at β = 0, paired by seed: contradicted outside 1.05 to 1.15. Wall time decides nothing.",
        "Time over that at β = 0",
        _inner,
        lambda results: costs.needs(_inner(results)),
    ),
    Stated(
        "costs-anchor",
        "β = 1 with the anchor costs 20 percent more time than β = 0.",
        PAPER,
        "Processor seconds of training over those at β = 0, paired by seed: contradicted outside 1.15 to 1.25. Wall time decides nothing.",
        "Time over that at β = 0",
        _full,
        lambda results: costs.needs(_full(results)),
    ),
    Stated(
        "anchor",
        "The flow-matching anchor by itself makes one-step samples better, at the same coefficient.",
        OURS,
        "Distance with the anchor over that without, after the same samples, paired by seed: each below 1.",
        "Distance with the anchor over without",
        _anchor,
        "it needs constants with and without the anchor (--arms constants anchors)",
    ),
    _beats("schedule-steps", q.STEPS_EQUAL),
    _beats("schedule-compute", q.COMPUTE_EQUAL),
)
