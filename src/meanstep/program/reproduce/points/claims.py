"""The claims of arXiv 2605.09235 about data in the plane, and ours, each with a stated test on the numbers of a sweep.

The paper's numbers are those of its authors' public drafts. SW1 is that of one-step samples under EMA weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite

import numpy as np

from meanstep.program.pages.statistics import Change, across, difference, logs, ratio
from meanstep.program.pages.verdicts import HIGHER, LOWER, Range, Row, shown, with_interval
from meanstep.program.reproduce.points.quantities import (
    changes_of,
    gaps_of,
    in_training,
    overall,
    plane,
    price,
    rise,
    sw1_ratio,
    trace_ratio,
)
from meanstep.program.reproduce.points.results import ANCHORED, BASE, BOTH, PLANE, Results
from meanstep.program.reproduce.points.settings import mixture_dimension
from meanstep.program.reproduce.report.claims import Stated

PAPER, OURS = "arXiv 2605.09235, drafts", "ours"
SW1_OF_PAPER = {
    "swiss_roll": (0.098, 0.045),
    "checkerboard": (0.175, 0.134),
    "pinwheel": (0.094, 0.059),
    "eight_gaussians": (0.098, 0.085),
    "two_moons": (0.093, 0.072),
    "two_spirals": (0.034, 0.037),
}
EXCEPTION, LARGER = "two_spirals", ("eight_gaussians", "checkerboard")
TRACE_RANGE, SW1_RANGE = (1.2, 4.3), (0.46, 0.87)
RISE, FLAT = 0.1, 0.1
UNITS = "Units: set means, of one set its seeds."
TRACE, SW1 = "Tr Cov at β = 0 over β = 1", "SW1 at β = 1 over β = 0"


def _falls(results: Results) -> list[Row]:
    names = plane(results)
    own = {name: ratio(results.probed(name, BASE, "trace", 0), results.probed(name, ANCHORED, "trace", 1)) for name in names}
    rows = _traces(results, "", *HIGHER)
    return rows + [Row(f"{name}, at the weights of each β", change) for name, change in own.items()]


def _size(results: Results) -> list[Row]:
    return _traces(results, "1.2 to 4.3", TRACE_RANGE, (1.0, inf))


def _traces(results: Results, paper: str, claimed: Range, shown: Range) -> list[Row]:
    """Judged on probes; what is known from training alone is for information, as the tests are stated for frozen weights."""
    changes = {name: trace_ratio(results, name) for name in plane(results)}
    if in_training(results):
        return [Row(f"{name}, in training", change, paper) for name, change in changes.items()]
    return [Row(name, change, paper, claimed, shown) for name, change in changes.items()]


def _trained(results: Results, sentence: str) -> str:
    """What training says where nothing was probed."""
    found = {name: change for name in plane(results) if in_training(results) and (change := trace_ratio(results, name)).n}
    if not found:
        return sentence
    low, high = (pick(found, key=lambda name: found[name].value) for pick in (min, max))
    span = " to ".join(f"{with_interval(found[name])} ({shown(name)})" for name in dict.fromkeys((low, high)))
    return f"{sentence} In training, each model on its own weights, the variance at β = 0 over that at β = 1 is {span}."


def _monotone(results: Results) -> list[Row]:
    probes = {name: [probe["trace"] for probe in results.probes(name, BASE) if len(probe["betas"]) > 2] for name in plane(results)}
    changes = {name: Change(tuple(filter(isfinite, map(rise, found))), logs=False) for name, found in probes.items()}
    return [Row(name, change, "nearly 0", (-inf, RISE), (-inf, RISE), against_none=False) for name, change in changes.items()]


def _where(results: Results) -> list[Row]:
    changes = {name: trace_ratio(results, name) for name in plane(results)}
    contrast = _contrast(results, LARGER, [name for name in changes if name not in LARGER])
    rows = [Row(" and ".join(LARGER) + " over the rest", contrast, claimed=HIGHER[0], shown=HIGHER[1])]
    return [*rows, *(Row(name, change) for name, change in changes.items())] if contrast.n else []


def _contrast(results: Results, some: Sequence[str], others: Sequence[str]) -> Change:
    found = {n: logs(results.probed(n, BASE, "trace", 0), results.probed(n, BASE, "trace", 1)) for n in (*some, *others)}
    if not others:
        return Change(())
    seeds = sorted(set.intersection(*map(set, found.values())))
    return Change(tuple(float(np.mean([found[n][s] for n in some]) - np.mean([found[n][s] for n in others])) for s in seeds))


def _gain(results: Results) -> list[Row]:
    every = {name: sw1_ratio(results, name, ANCHORED) for name in PLANE}
    names = [name for name in every if name != EXCEPTION]
    rows = [Row(name, every[name], _paper(name), SW1_RANGE, (0.0, 1.0)) for name in names]
    also = f" and {EXCEPTION}" if every[EXCEPTION].n else ""
    rows.append(Row(f"all of these sets{also}, set means as units", across(every.values())))
    return rows + [Row(f"{name}, raw weights", sw1_ratio(results, name, ANCHORED, weights="raw")) for name in names]


def _paper(name: str) -> str:
    before, after = SW1_OF_PAPER[name]
    return f"{after / before:.2f}"


def _exception(results: Results) -> list[Row]:
    change, raw = (sw1_ratio(results, EXCEPTION, ANCHORED, weights=weights) for weights in ("ema", "raw"))
    return [Row(EXCEPTION, change, _paper(EXCEPTION), (LOWER[0][1], inf), (SW1_RANGE[1], inf)), Row(f"{EXCEPTION}, raw weights", raw)]


def _whose(results: Results) -> list[Row]:
    plain, anchored = "ema 1", "beta 0 anchor"
    found = {"β = 1 alone over anchor alone": changes_of(results, plain, anchored), "β = 1 alone over neither": changes_of(results, plain)}
    found |= {"anchor alone over neither": changes_of(results, anchored), "both over neither": changes_of(results, ANCHORED)}
    pairs = [(words, *overall(changes)) for words, changes in found.items()]
    rows = [Row(f"{words}, {where}" if where else words, change) for words, where, change in pairs]
    return [replace(row, claimed=LOWER[0], shown=LOWER[1]) if k < 2 else row for k, row in enumerate(rows)]


def _together(changes: dict[str, Change], claimed: Range, shown: Range) -> list[Row]:
    """All sets judged, and each for information."""
    where, change = overall(changes)
    return [Row(where, change, "", claimed, shown), *(Row(name, found) for name, found in changes.items())] if changes else []


def _mismatch(results: Results) -> list[Row]:
    return _together({name: change for name in results.sets if (change := price(results, name, "matrix")).n}, *HIGHER)


def _rules(results: Results) -> list[Row]:
    words = {"norm": "eq. (19) with |κ|", "signed": "eq. (19b)", "matrix": "eq. (20)"}
    gaps = {rule: {name: gaps_of(results, name, rule) for name in results.sets} for rule in words}
    changes = {name: change for name in results.sets if (change := difference(gaps["norm"][name], gaps["matrix"][name])).n}
    rows = _together(changes, (0.0, inf), (0.0, inf))[:1]
    for rule in words if rows else ():
        if apart := {name: Change(tuple(found.values()), logs=False) for name, found in gaps[rule].items() if found}:
            rows.append(Row(f"{words[rule]}: mean distance to the measured optimum", overall(apart)[1], against_none=False))
    return rows


def _posterior(results: Results) -> list[Row]:
    changes = changes_of(results, BOTH, "ema 1") or changes_of(results, BOTH, ANCHORED)
    where, change = overall(changes_of(results, BOTH))
    return [*_together(changes, *LOWER), Row(f"over β = 0, {where}", change)] if changes else []


def _flat(results: Results) -> list[Row]:
    close, betas = (1 - FLAT, 1 + FLAT), [beta for beta in results.paper_betas() if beta > 0]
    pairs = [(name, beta) for name in results.sets if (mixture_dimension(name) or 99) <= 32 for beta in betas]
    changes = {f"{name}, β = {beta:.12g}": sw1_ratio(results, name, results.paper(beta)) for name, beta in pairs}
    return [Row(where, change, "about 1", close, close) for where, change in changes.items()]


def _interior(results: Results) -> list[Row]:
    name, inner = "mixture-64", [beta for beta in results.paper_betas() if 0.25 <= beta <= 0.55]
    if not inner or name not in results.sets:
        return []
    beta = min(inner, key=lambda b: abs(b - 0.4))
    first, last = (sw1_ratio(results, name, results.paper(beta), base) for base in (BASE, results.paper(1.0)))
    rows = [Row(f"β = {beta:g} over β = 0", first, "0.89", (0.86, 0.96), (0.0, 1.0))]
    return [*rows, Row(f"β = {beta:g} over β = 1", last, "below 1", (0.0, 1.0), (0.0, 1.0))]


CLAIMS = (
    Stated(
        "variance-falls",
        "The variance of the gradient, Tr Cov, is lower at β = 1 than at β = 0.",
        PAPER,
        "Tr Cov of the gradient on the frozen weights trained at β = 0: ratio of β = 0 to β = 1, paired by seed. Above 1 on "
        "every set of the sweep.",
        TRACE,
        _falls,
        "it needs probes at 0 and 1 on the sets of the plane (--betas 0 1)",
        told=_trained,
    ),
    Stated(
        "variance-size",
        "It is lower by a factor between 1.2 and 4.3.",
        PAPER,
        "The same ratio: contradicted where it lies outside that range, agreed where its interval reaches into it and exceeds 1.",
        TRACE,
        _size,
        "it needs probes at 0 and 1 on the sets of the plane (--betas 0 1)",
        told=_trained,
    ),
    Stated(
        "variance-monotone",
        "It falls nearly monotonically with β.",
        PAPER,
        f"Share of rises in the total variation of log Tr Cov over the probed β: at most {RISE:g} on every set of the sweep. "
        "A pure fall has 0, a pure rise 1.",
        "Share of rises",
        _monotone,
        "it needs three coefficients or more on the sets of the plane (--betas 0 0.25 0.5 0.75 1)",
    ),
    Stated(
        "variance-where",
        "The reduction is larger on eight_gaussians and checkerboard than on the other sets.",
        PAPER,
        "Geometric mean of the ratio on those two over that on the other sets of the sweep, seed by seed: above 1.",
        "Ratio of the ratios",
        _where,
        f"it needs {' and '.join(LARGER)} and another set (--sets)",
    ),
    Stated(
        "quality",
        "One-step samples are better at β = 1 (with the anchor) than at β = 0: SW1 lower by 13 to 54 percent on five of six sets.",
        PAPER,
        "SW1 at β = 1 over β = 0, EMA weights, paired by seed, on each of the five: contradicted outside 0.46 to 0.87, agreed if below 1.",
        SW1,
        _gain,
        "it needs the arm paper at 0 and 1 on the other five sets of the plane (--arms paper --betas 0 1)",
    ),
    Stated(
        "exception",
        "two_spirals is the exception: there β = 1 does not help.",
        PAPER,
        "SW1 at β = 1 over β = 0, paired by seed: contradicted if below 0.98, agreed if the interval excludes the others' smallest gain, "
        "0.87.",
        SW1,
        _exception,
        "it needs two_spirals and the arm paper at 0 and 1 (--sets two_spirals --arms paper --betas 0 1)",
    ),
    Stated(
        "whose-gain",
        "The gain at β = 1 is the coefficient's and not the anchor's.",
        OURS,
        f"SW1 at β = 1 without the anchor, over β = 0 with the anchor and over β = 0 without: both below 1. {UNITS}",
        "SW1 ratio",
        _whose,
        "it needs β = 1 without and β = 0 with and without the anchor (--arms plain@0,1 anchored@0)",
    ),
    Stated(
        "mismatch",
        "The coefficient that minimises gradient error is not the one that minimises SW1.",
        PAPER,
        "SW1 at the trained β nearest to the predicted optimum, eq. (20), over SW1 at the β that is best on the other seeds: above 1. "
        f"The best β is chosen without the seed it is judged on. {UNITS}",
        "SW1 at the predicted over the best β",
        _mismatch,
        "it needs three coefficients or more of the arm paper and two seeds (--betas 0 0.25 0.5 0.75 1 --seeds 0:3)",
    ),
    Stated(
        "predicted",
        "The matrix form of the optimum predicts where the gradient's error is least better than the scalar form with |κ| does.",
        OURS,
        f"Distance from the prediction to the β of least measured error, |κ| form minus matrix form, paired by seed: above 0. {UNITS}",
        "Difference of distances in β",
        _rules,
        "it needs probes at three coefficients or more (--betas 0 0.25 0.5 0.75 1)",
    ),
    Stated(
        "posterior",
        "At β = 1 a posterior velocity in the target and in the tangent gives better samples than the EMA proxy in the tangent.",
        OURS,
        f"SW1 of “{BOTH}” over that of “ema 1”, of “{ANCHORED}” where that was not trained: below 1. {UNITS}",
        "SW1 ratio",
        _posterior,
        "it needs both lines (--arms plain@0,1 posterior-both@1)",
    ),
    Stated(
        "mixtures-flat",
        "On Gaussian mixtures up to 32 dimensions SW1 hardly depends on β.",
        PAPER,
        f"SW1 at every trained β over β = 0, paired by seed, on every such set of the sweep: all within {1 - FLAT:g} to {1 + FLAT:g}.",
        "SW1 over that at β = 0",
        _flat,
        "it needs mixtures (meanstep reproduce mixtures)",
    ),
    Stated(
        "mixtures-interior",
        "In 64 dimensions SW1 has a minimum near β = 0.4, about 11 percent below β = 0.",
        PAPER,
        "SW1 at the trained β nearest to 0.4, over β = 0 (contradicted outside 0.86 to 0.96) and over β = 1: both below 1, paired by seed.",
        "SW1 ratio",
        _interior,
        "it needs mixture-64 at 0, about 0.4 and 1 (meanstep reproduce mixtures --betas 0 0.4 1)",
    ),
)
