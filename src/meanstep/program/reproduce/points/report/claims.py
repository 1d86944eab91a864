"""The claims of arXiv 2605.09235 and ours, one by one, each with a stated test on the numbers of a sweep. Knows no figures and no page.

The full text of the paper was not at hand: its numbers are quoted from summaries. SW1 is that of one-step samples under EMA weights.
"""

from collections.abc import Callable, Sequence
from math import inf, log

import numpy as np

from meanstep.program.pages.statistics import Change, across, difference, ratio
from meanstep.program.pages.trained import undecided
from meanstep.program.pages.verdicts import HIGHER, LOWER, Claim, Row, claim
from meanstep.program.reproduce.points.report.comparisons import (
    changes_of,
    far,
    gaps_of,
    overall,
    plane,
    price,
    rise,
    sw1_ratio,
    trace_ratio,
)
from meanstep.program.reproduce.points.report.results import ANCHORED, BASE, BOTH, Results
from meanstep.program.reproduce.points.settings import mixture_dimension

PAPER = "arXiv 2605.09235, quoted from summaries"
OURS = "ours"
SW1_OF_PAPER = {
    "swiss_roll": (0.098, 0.045),
    "checkerboard": (0.175, 0.134),
    "pinwheel": (0.094, 0.059),
    "eight_gaussians": (0.098, 0.085),
    "two_moons": (0.093, 0.072),
    "two_spirals": (0.034, 0.037),
}
EXCEPTION = "two_spirals"
LARGER = ("eight_gaussians", "checkerboard")
TRACE_RANGE = (1.2, 4.3)
SW1_RANGE = (0.46, 0.87)
RISE = 0.1
FLAT = 0.1


def claims(results: Results) -> list[Claim]:
    """All of them, decided or not; none is decided by models that have not learnt the data."""
    made = [make(results) for make in CLAIMS]
    return [undecided(each, f"Too far from the data to judge: {why}.") for each in made] if (why := far(results)) else made


def _falls(results: Results) -> Claim:
    rows = [Row(name, trace_ratio(results, name), claimed=HIGHER[0], shown=HIGHER[1]) for name in plane(results)]
    for name in plane(results):
        own = ratio(results.probed(name, BASE, "trace", 0), results.probed(name, ANCHORED, "trace", 1))
        rows.append(Row(f"{name}, at the weights of each β", own))
    return claim(
        "variance-falls",
        "The variance of the gradient, Tr Cov, is lower at β = 1 than at β = 0.",
        PAPER,
        "Tr Cov of the gradient on the frozen weights trained at β = 0: ratio of β = 0 to β = 1, paired by seed, on every set above 1.",
        "Tr Cov at β = 0 over β = 1",
        rows,
        "it needs probes at 0 and 1 on the sets of the plane (--betas 0 1)",
    )


def _size(results: Results) -> Claim:
    shown = f"{TRACE_RANGE[0]} to {TRACE_RANGE[1]}"
    rows = [Row(name, trace_ratio(results, name), shown, TRACE_RANGE, (1.0, inf)) for name in plane(results)]
    return claim(
        "variance-size",
        f"It is lower by a factor between {TRACE_RANGE[0]} and {TRACE_RANGE[1]}.",
        PAPER,
        "The same ratio: contradicted where it lies outside that range, agreed where its interval reaches into it and exceeds 1.",
        "Tr Cov at β = 0 over β = 1",
        rows,
        "it needs probes at 0 and 1 on the sets of the plane (--betas 0 1)",
    )


def _monotone(results: Results) -> Claim:
    rows = []
    for name in plane(results):
        shares = tuple(rise(probe["trace"]) for probe in results.probes(name, BASE) if len(probe["betas"]) > 2)
        rows.append(Row(name, Change(shares, logs=False), "nearly 0", (-inf, RISE), (-inf, RISE), against_none=False))
    return claim(
        "variance-monotone",
        "It falls nearly monotonically with β.",
        PAPER,
        f"Share of rises in the total variation of log Tr Cov over the probed β: at most {RISE:g} on every set. "
        "A pure fall has 0, a pure rise 1.",
        "Share of rises",
        rows,
        "it needs three coefficients or more on the sets of the plane (--betas 0 0.25 0.5 0.75 1)",
    )


def _where(results: Results) -> Claim:
    changes = {name: trace_ratio(results, name) for name in plane(results)}
    contrast = _contrast(results, [name for name in LARGER if name in changes], [name for name in changes if name not in LARGER])
    rows = [Row(" and ".join(LARGER) + " over the rest", contrast, claimed=HIGHER[0], shown=HIGHER[1])]
    return claim(
        "variance-where",
        "The reduction is larger on eight_gaussians and checkerboard than on the other sets.",
        PAPER,
        "Geometric mean of the ratio on those two over that on the other sets of the sweep, seed by seed: above 1.",
        "Ratio of the ratios",
        [*rows, *(Row(name, change) for name, change in changes.items())] if contrast.n else [],
        f"it needs {' or '.join(LARGER)} and another set (--sets)",
    )


def _contrast(results: Results, some: Sequence[str], others: Sequence[str]) -> Change:
    def logs(name: str) -> dict[int, float]:
        a, b = results.probed(name, BASE, "trace", 0), results.probed(name, BASE, "trace", 1)
        return {seed: log(a[seed] / b[seed]) for seed in a.keys() & b.keys() if a[seed] > 0 and b[seed] > 0}

    found = {name: logs(name) for name in (*some, *others)}
    if not some or not others:
        return Change(())
    seeds = sorted(set.intersection(*(set(x) for x in found.values())))
    return Change(tuple(float(np.mean([found[n][s] for n in some]) - np.mean([found[n][s] for n in others])) for s in seeds))


def _gain(results: Results) -> Claim:
    names = [name for name in plane(results) if name != EXCEPTION]
    changes = {name: sw1_ratio(results, name, ANCHORED) for name in names}
    rows = [Row(name, change, _paper(name), SW1_RANGE, (0.0, 1.0)) for name, change in changes.items()]
    every = {name: sw1_ratio(results, name, ANCHORED) for name in plane(results)}
    rows.append(Row(f"all of these sets{f' and {EXCEPTION}' if EXCEPTION in every else ''}, set means as units", across(every.values())))
    rows += [Row(f"{name}, raw weights", sw1_ratio(results, name, ANCHORED, weights="raw")) for name in names]
    return claim(
        "quality",
        "One-step samples are better at β = 1 (with the anchor) than at β = 0: SW1 lower by 13 to 54 percent on five of six sets.",
        PAPER,
        "SW1 at β = 1 over β = 0, EMA weights, paired by seed, on each of the five: contradicted outside 0.46 to 0.87, agreed if below 1.",
        "SW1 at β = 1 over β = 0",
        rows,
        "it needs the arm paper at 0 and 1 on the sets of the plane (--arms paper --betas 0 1)",
    )


def _paper(name: str) -> str:
    before, after = SW1_OF_PAPER[name]
    return f"{after / before:.2f}"


def _exception(results: Results) -> Claim:
    change = sw1_ratio(results, EXCEPTION, ANCHORED)
    rows = [Row(EXCEPTION, change, _paper(EXCEPTION), (LOWER[0][1], inf), (SW1_RANGE[1], inf))]
    rows.append(Row(f"{EXCEPTION}, raw weights", sw1_ratio(results, EXCEPTION, ANCHORED, weights="raw")))
    return claim(
        "exception",
        "two_spirals is the exception: there β = 1 does not help.",
        PAPER,
        "SW1 at β = 1 over β = 0, paired by seed: contradicted if below 0.98, agreed if the interval excludes the others' smallest gain, "
        "0.87.",
        "SW1 at β = 1 over β = 0",
        rows,
        "it needs two_spirals and the arm paper at 0 and 1 (--sets two_spirals --arms paper --betas 0 1)",
    )


def _whose(results: Results) -> Claim:
    plain, anchored = "ema 1", "beta 0 anchor"
    rows = []
    contrast = changes_of(results, plain, anchored)
    if contrast:
        where, change = overall(contrast)
        rows.append(Row(f"β = 1 alone over anchor alone, {where}", change, "", *LOWER))
        where, change = overall(changes_of(results, plain))
        rows.append(Row(f"β = 1 alone over neither, {where}", change, "", *LOWER))
        for words, id in (("anchor alone", anchored), ("both", ANCHORED)):
            where, change = overall(changes_of(results, id))
            rows.append(Row(f"{words} over neither, {where}", change))
    return claim(
        "whose-gain",
        "The gain at β = 1 is the coefficient's and not the anchor's.",
        OURS,
        "SW1 at β = 1 without the anchor, over β = 0 with the anchor and over β = 0 without: both below 1. "
        "Units: set means, of one set its seeds.",
        "SW1 ratio",
        rows,
        "it needs β = 1 without and β = 0 with the anchor (--arms paper plain@0,1 anchored@0)",
    )


def _mismatch(results: Results) -> Claim:
    changes = {name: change for name in results.sets if (change := price(results, name, "matrix")).n}
    where, change = overall(changes)
    rows = [Row(where, change, "", *HIGHER), *(Row(name, found) for name, found in changes.items())] if changes else []
    return claim(
        "mismatch",
        "The coefficient that minimises gradient error is not the one that minimises SW1.",
        PAPER,
        "SW1 at the trained β nearest to the predicted optimum, eq. (20), over SW1 at the β that is best on the other seeds: above 1. "
        "The best β is chosen without the seed it is judged on. Units: set means, of one set its seeds.",
        "SW1 at the predicted over the best β",
        rows,
        "it needs three coefficients or more of the arm paper and two seeds (--betas 0 0.25 0.5 0.75 1 --seeds 0:3)",
    )


def _rules(results: Results) -> Claim:
    gaps = {rule: {name: gaps_of(results, name, rule) for name in results.sets} for rule in ("norm", "signed", "matrix")}
    changes = {name: change for name in results.sets if (change := difference(gaps["norm"][name], gaps["matrix"][name])).n}
    where, change = overall(changes)
    rows = [Row(where, change, "", (0.0, inf), (0.0, inf))] if changes else []
    for rule, words in (("norm", "eq. (19) with |κ|"), ("signed", "eq. (19b)"), ("matrix", "eq. (20)")):
        apart = {name: Change(tuple(found.values()), logs=False) for name, found in gaps[rule].items() if found}
        rows += [Row(f"{words}: mean distance to the measured optimum", overall(apart)[1], against_none=False)] if apart and rows else []
    return claim(
        "predicted",
        "The matrix form of the optimum predicts where the gradient's error is least better than the scalar form with |κ| does.",
        OURS,
        "Distance from the prediction to the β of least measured error, |κ| form minus matrix form, paired by seed: above 0. "
        "Units: set means, of one set its seeds.",
        "Difference of distances in β",
        rows,
        "it needs probes at three coefficients or more (--betas 0 0.25 0.5 0.75 1)",
    )


def _posterior(results: Results) -> Claim:
    both = BOTH
    base = "ema 1" if changes_of(results, both, "ema 1") else ANCHORED
    changes = changes_of(results, both, base)
    where, change = overall(changes)
    rows = [Row(where, change, "", *LOWER), *(Row(name, found) for name, found in changes.items())] if changes else []
    if changes:
        rows.append(Row(f"over β = 0, {overall(changes_of(results, both))[0]}", overall(changes_of(results, both))[1]))
    return claim(
        "posterior",
        "At β = 1 a posterior velocity in the target and in the tangent gives better samples than the EMA proxy in the tangent.",
        OURS,
        f"SW1 of “{both}” over “{base}”: below 1. Units: set means, of one set its seeds.",
        "SW1 ratio",
        rows,
        "it needs both lines (--arms plain@0,1 posterior-both@1)",
    )


def _flat(results: Results) -> Claim:
    rows = []
    for name in results.sets:
        for beta in (b for b in results.paper_betas() if b > 0 and (mixture_dimension(name) or 99) <= 32):
            change = sw1_ratio(results, name, results.paper(beta))
            rows.append(Row(f"{name}, β = {beta:g}", change, "about 1", (1 - FLAT, 1 + FLAT), (1 - FLAT, 1 + FLAT)))
    return claim(
        "mixtures-flat",
        "On Gaussian mixtures up to 32 dimensions SW1 hardly depends on β.",
        PAPER,
        f"SW1 at every trained β over β = 0, paired by seed: all within {1 - FLAT:g} to {1 + FLAT:g}.",
        "SW1 over that at β = 0",
        rows,
        "it needs mixtures (meanstep reproduce mixtures)",
    )


def _interior(results: Results) -> Claim:
    name, inner = "mixture-64", [beta for beta in results.paper_betas() if 0.25 <= beta <= 0.55]
    rows = []
    if inner and name in results.sets:
        beta = min(inner, key=lambda b: abs(b - 0.4))
        rows.append(Row(f"β = {beta:g} over β = 0", sw1_ratio(results, name, results.paper(beta)), "0.91", (0.86, 0.96), (0.0, 1.0)))
        rows.append(
            Row(f"β = {beta:g} over β = 1", sw1_ratio(results, name, results.paper(beta), ANCHORED), "below 1", (0.0, 1.0), (0.0, 1.0))
        )
    return claim(
        "mixtures-interior",
        "In 64 dimensions SW1 has a minimum near β = 0.4, about 9 percent below β = 0.",
        PAPER,
        "SW1 at the trained β nearest to 0.4, over β = 0 (contradicted outside 0.86 to 0.96) and over β = 1: both below 1, paired by seed.",
        "SW1 ratio",
        rows,
        "it needs mixture-64 at 0, about 0.4 and 1 (meanstep reproduce mixtures --betas 0 0.4 1)",
    )


CLAIMS: tuple[Callable[[Results], Claim], ...] = (
    _falls,
    _size,
    _monotone,
    _where,
    _gain,
    _exception,
    _whose,
    _mismatch,
    _rules,
    _posterior,
    _flat,
    _interior,
)
