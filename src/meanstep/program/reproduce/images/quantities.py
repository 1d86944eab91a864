"""What is computed of a study's numbers: ratios at equal steps and equal compute, the two optima, amplification, loss variance, costs.

Everything is by seed, so that intervals are those of independent runs. Knows no claims, no figures and no page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import exp, log
from typing import Any

import numpy as np

from meanstep.program.pages.statistics import Change, difference, logs, ratio
from meanstep.program.reproduce.images.results import CENTERS, WEIGHTS, Arm, Results
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.report.results import Seeds, at, is_number
from meanstep.program.reproduce.report.summary import Quantity

PROCESSOR, WALL = "processor", "wall"
LEVEL_T = 0.9
"""The time at which the paper compares the loss of both tangents."""


def equal_steps(results: Results, arm: Arm | None, base: Arm | None, weights: str = "ema", steps: str = "1") -> Change:
    """Distance of an arm over that of another, after the same number of samples."""
    return ratio(*same_steps(results, arm, base, weights, steps), broken=results.broke(arm, base))


def equal_compute(results: Results, arm: Arm | None, base: Arm | None, weights: str = "ema", steps: str = "1") -> Change:
    """Distance of an arm at the end over that of another after the same compute; none where the other has not got that far."""
    return ratio(*same_compute(results, arm, base, weights, steps), broken=results.broke(arm, base))


def same_steps(results: Results, arm: Arm | None, base: Arm | None, weights: str = "ema", steps: str = "1") -> tuple[Seeds, Seeds]:
    """Distances of both at the end."""
    return results.distance(arm, results.end, weights, steps), results.distance(base, results.end, weights, steps)


def same_compute(results: Results, arm: Arm | None, base: Arm | None, weights: str = "ema", steps: str = "1") -> tuple[Seeds, Seeds]:
    """Distance of an arm at the end, and of another after as much compute."""
    if arm is None or base is None or results.end is None:
        return {}, {}
    return results.distance(arm, results.end, weights, steps), after(results, base, arm.cost * results.end, weights, steps)


Pairs = Callable[[Results, Arm, Arm, str, str], tuple[Seeds, Seeds]]
STEPS_EQUAL, COMPUTE_EQUAL = "after the same samples", "after the same compute"
TERMS: dict[str, Pairs] = {STEPS_EQUAL: same_steps, COMPUTE_EQUAL: same_compute}


def after(results: Results, arm: Arm, compute: float, weights: str = "ema", steps: str = "1") -> Seeds:
    """Distance of an arm after so much compute: linear in logarithms of both between measured moments, and unknown beyond them."""
    found = {}
    for seed in results.seeds:
        pairs = [(seen * arm.cost, results.distance(arm, seen, weights, steps).get(seed)) for seen in results.seen(arm, seed)]
        if (x := _between(pairs, compute, log)) is not None:
            found[seed] = x
    return found


def error_optimal(results: Results, arm: Arm | None, seen: int | None, center: str, rule: str = "matrix", *, clip: bool = True) -> Seeds:
    """The coefficient of least error on an arm's weights, in [0, 1] if `clip`."""
    found = results.value(arm, seen, lambda record: _entry(at(record, "error", center, "optimum", rule), 0))
    return {seed: min(max(x, 0.0), 1.0) if clip else x for seed, x in found.items()}


def distance_optimal(results: Results, seen: int | None, weights: str = "ema", steps: str = "1") -> Seeds:
    """The coefficient of least distance of the parabola through log distance of three constants or more, within their range."""
    return {seed: _lowest([*curve], [*curve.values()]) for seed, curve in _curves(results, seen, weights, steps).items() if len(curve) > 2}


def best_constant(results: Results, seen: int | None, weights: str = "ema", steps: str = "1") -> Seeds:
    """The coefficient of the constant with the least distance, of two or more."""
    curves = _curves(results, seen, weights, steps)
    return {seed: min(curve, key=lambda beta: curve[beta]) for seed, curve in curves.items() if len(curve) > 1}


def both_optima(results: Results, seen: int | None, center: str, weights: str = "ema", steps: str = "1") -> tuple[Seeds, Seeds]:
    """The coefficients of least error at the constant 0 and of least distance, of the seeds that have both, in the constants' range."""
    best, least = distance_optimal(results, seen, weights, steps), _least_error(results, seen, center, weights, steps)
    both = sorted(best.keys() & least.keys())
    return {seed: least[seed] for seed in both}, {seed: best[seed] for seed in both}


def mismatch(results: Results, seen: int | None, center: str, weights: str = "ema", steps: str = "1", *, grid: bool = False) -> Change:
    """The difference of the two, by seed; `grid`: of the best constant in place of the parabola's lowest point."""
    if grid:
        found = _least_error(results, seen, center, weights, steps), best_constant(results, seen, weights, steps)
    else:
        found = both_optima(results, seen, center, weights, steps)
    return replace(difference(*found), clipped=True)


def _least_error(results: Results, seen: int | None, center: str, weights: str, steps: str) -> Seeds:
    curves = _curves(results, seen, weights, steps)
    least = error_optimal(results, results.base, seen, center, clip=False)
    return {seed: min(max(x, min(curves[seed])), max(curves[seed])) for seed, x in least.items() if seed in curves}


def error_at(record: Record, center: str, beta: float) -> float | None:
    """`M(beta)` of a record, from its table or else from the means that make it."""
    found = at(record, "error", center)
    betas, values = at(found, "betas") or [], at(found, "value") or []
    if beta in betas and len(values) == len(betas):
        return values[betas.index(beta)] if is_number(values[betas.index(beta)]) else None
    a, b, c, d, s = (at(found, name) for name in "abcds")
    return (a - 2 * beta * b + beta**2 * (c + d)) / s if all(map(is_number, (a, b, c, d, s))) and s else None


def error(results: Results, beta: float, center: str, seen: int | None = None) -> Seeds:
    """`M(beta)` on the weights of the constant 0, at the end if no moment is given, by seed."""
    return results.value(results.base, seen or results.end, lambda record: error_at(record, center, beta))


def amplification(results: Results, arm: Arm | None, center: str) -> Change:
    """How many times the distance grows for one of the error: `[d(beta) / d(0)] / [M(beta) / M(0)]`, by seed."""
    far, near = (results.distance(each, results.end) for each in (arm, results.base))
    more, less = error(results, (arm and arm.beta) or 0.0, center), error(results, 0.0, center)
    above = {seed: far[seed] * less[seed] for seed in far.keys() & less.keys()}
    below = {seed: near[seed] * more[seed] for seed in near.keys() & more.keys()}
    return ratio(above, below, broken=results.broke(arm, results.base))


def loss_variance(record: Record, tangent: str, t: float) -> float | None:
    """Variance of the loss over rows at a time, its logarithm linear between measured times; None beyond them."""
    x, y = at(record, "loss", "t") or [], at(record, "loss", tangent, "variance") or []
    return _between(list(zip(x, y, strict=False)), t)


def variances(results: Results, seen: int | None, tangent: str, t: float = LEVEL_T, arm: Arm | None = None) -> Seeds:
    """Variance of the loss on an arm's weights, those of the constant 0 if none is given, by seed."""
    return results.value(arm or results.base, seen, lambda record: loss_variance(record, tangent, t))


def tangents_ratio(results: Results, seen: int | None, t: float = LEVEL_T) -> Change:
    """Variance of the loss with the conditional tangent over that with the EMA copy's."""
    return ratio(variances(results, seen, "conditional", t), variances(results, seen, "ema", t))


def growth(results: Results, tangent: str) -> Change:
    """Variance of the loss at the largest measured time over that at the smallest, on the weights of the constant 0."""

    last, first = (
        results.value(results.base, results.end, lambda record, k=k: _entry(at(record, "loss", tangent, "variance"), k))  # type: ignore[misc]
        for k in (-1, 0)
    )
    return ratio(last, first)


def _entry(found: Any, k: int) -> Any:
    return found[k] if isinstance(found, list) and found else None


def seconds(results: Results, arm: Arm | None, clock: str = PROCESSOR, seen: int | None = None) -> Seeds:
    """Seconds of training up to a moment, the end if none is given; wall time where that was taken for some of them."""
    seen = results.end if seen is None else seen
    runs = results.by_unit.get((arm.name,), {}) if arm and seen is not None else {}
    clocks = {seed: {record.get("clock") for at, record in run.items() if at <= (seen or 0)} for seed, run in runs.items()}
    found = results.value(arm, seen, lambda record: record.get("seconds"))
    return {seed: x for seed, x in found.items() if (WALL if WALL in clocks[seed] else PROCESSOR) == clock}


def kinds(results: Results) -> list[str]:
    """The kinds of bias that were measured: they have different norms and go into no mean together."""
    found = {str(at(record, "bias", "kind") or "") for run in results.runs.values() for record in run.values() if at(record, "bias")}
    return sorted(found)


def bias(results: Results, arm: Arm | None, seen: int | None, kind: str) -> Seeds:
    """Squared error of the EMA copy, of one kind."""
    return results.value(arm, seen, lambda record: at(record, "bias", "value") if (at(record, "bias", "kind") or "") == kind else None)


def _between(pairs: Sequence[tuple[float, Any]], x: float, scale: Callable[[float], float] = float) -> float | None:
    """The value at `x`, its logarithm linear over `scale` between known positive values; None beyond them."""
    known = [(a, log(b)) for a, b in pairs if is_number(b) and b > 0]
    if not known or x < known[0][0] * (1 - 1e-9) or x > known[-1][0] * (1 + 1e-9):
        return None
    return exp(float(np.interp(scale(x), [scale(a) for a, _ in known], [b for _, b in known])))


def grid(results: Results, *names: str) -> list[float]:
    """Where a curve was measured: an entry of the first record that has it."""
    return next((found for run in results.runs.values() for record in run.values() if (found := at(record, *names))), [])


def _curves(results: Results, seen: int | None, weights: str, steps: str) -> dict[int, dict[float, float]]:
    """Log distance by coefficient, of each seed."""
    found: dict[int, dict[float, float]] = {}
    for arm in results.constants:
        for seed, x in results.distance(arm, seen, weights, steps).items():
            if x > 0:
                found.setdefault(seed, {})[arm.beta or 0.0] = log(x)
    return found


def _lowest(betas: Sequence[float], logs: Sequence[float]) -> float:
    c, low, high = np.polyfit(betas, logs, 2), min(betas), max(betas)
    vertex = float(-c[1] / (2 * c[0])) if c[0] > 0 else low
    return min((low, high, vertex if low < vertex < high else low), key=lambda x: float(np.polyval(c, x)))


OPTIMA = ("matrix", "matrix_unbiased", "norm", "sign")


def quantities(results: Results) -> Iterator[Quantity]:
    """Of every arm at every moment; then its ratios to every constant at the end."""
    for arm in results.arms:
        for seen in results.seen(arm):
            yield from _of(results, arm, seen)
    for arm in results.arms:
        yield from _ratios(results, arm)


def _of(results: Results, arm: Arm, seen: int) -> Iterator[Quantity]:
    (broken,) = results.broke(arm)

    def made(metric: str, found: Seeds, weights: str = "", steps: str = "", at: str = "") -> Quantity:
        return Quantity(metric, arm.line, found, weights=weights, steps=steps, at=at, seen=seen, broken=broken)

    for weights, n in product(WEIGHTS, results.steps):
        yield made("distance", results.distance(arm, seen, weights, n), weights, n)
    for clock in (PROCESSOR, WALL):
        yield made("seconds", seconds(results, arm, clock, seen), at=clock)
    yield made("beta", results.value(arm, seen, lambda record: record.get("beta")))
    for kind in kinds(results):
        yield made("bias", bias(results, arm, seen, kind), "ema", at=kind)
    for center, rule in product(CENTERS, OPTIMA):
        yield made(f"optimum {rule}", error_optimal(results, arm, seen, center, rule, clip=False), "raw", at=center)
    for tangent, t in product(("conditional", "ema"), grid(results, "loss", "t")):
        yield made(f"loss variance, {tangent}", variances(results, seen, tangent, t, arm), "raw", at=f"t {t:g}")


def _ratios(results: Results, arm: Arm) -> Iterator[Quantity]:
    others = [constant for constant in results.constants if constant is not arm]
    for base, (terms, pairs), weights, steps in product(others, TERMS.items(), WEIGHTS, results.steps):
        found, where = logs(*pairs(results, arm, base, weights, steps)), f"{terms}; sd and values of logarithms"
        yield Quantity(f"ratio to beta {base.beta:g}", arm.line, found, "", weights, steps, where, results.end, logs=True)
