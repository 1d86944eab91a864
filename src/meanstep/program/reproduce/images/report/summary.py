"""Every number of a study as a row: mean, spread, interval, the seeds behind it and their values. Knows no figures and no page."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from meanstep.program.pages.statistics import mean, ratio
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.contests import TERMS
from meanstep.program.reproduce.images.report.results import CENTERS, WEIGHTS, Arm, Results, Seeds

OPTIMA = ("matrix", "matrix_unbiased", "norm", "sign")


@dataclass(frozen=True)
class Number:
    """A row of summary.csv: `at`: where a probe was taken, which clock or kind, or when; blanks separate `seeds` and `values`."""

    arm: str
    family: str
    beta: float | None
    seen: int
    weights: str
    metric: str
    steps: str
    at: str
    mean: float
    sd: float | None
    low95: float | None
    high95: float | None
    n: int
    seeds: str
    values: str


def numbers(results: Results) -> list[Number]:
    """Of every arm at every moment; then its ratios to every constant at the end."""
    found = [row for arm in results.arms for seen in results.seen(arm) for row in _of(results, arm, seen)]
    return found + [row for arm in results.arms for row in _ratios(results, arm)]


def _of(results: Results, arm: Arm, seen: int) -> Iterator[Number]:
    for weights in WEIGHTS:
        for steps in results.steps:
            yield from _row(arm, seen, weights, "distance", steps, "", results.distance(arm, seen, weights, steps))
    for clock in (q.PROCESSOR, q.WALL):
        yield from _row(arm, seen, "", "seconds", "", clock, q.seconds(results, arm, clock, seen))
    yield from _row(arm, seen, "", "beta", "", "", results.value(arm, seen, lambda record: record.get("beta")))
    for kind in q.kinds(results):
        yield from _row(arm, seen, "ema", "bias", "", kind, q.bias(results, arm, seen, kind))
    for center in CENTERS:
        for rule in OPTIMA:
            found = q.error_optimal(results, arm, seen, center, rule, clip=False)
            yield from _row(arm, seen, "raw", f"optimum {rule}", "", center, found)
    for tangent in ("conditional", "ema"):
        for t in q.grid(results, "loss", "t"):
            found = results.value(arm, seen, lambda record, t=t, n=tangent: q.loss_variance(record, n, t))  # type: ignore[misc]
            yield from _row(arm, seen, "raw", f"loss variance, {tangent}", "", f"t {t:g}", found)


def _ratios(results: Results, arm: Arm) -> Iterator[Number]:
    others = [constant for constant in results.constants if constant is not arm]
    for base, (terms, pairs), weights, steps in product(others, TERMS.items(), WEIGHTS, results.steps):
        one, other = pairs(results, arm, base, weights, steps)
        change = ratio(one, other)
        if results.end is None or not change.n:
            continue
        logs, (low, high) = mean(change.differences), change.interval or (None, None)
        head = (arm.name, arm.family, arm.beta, results.end, weights, f"ratio to beta {base.beta:g}", steps)
        seeds = " ".join(str(seed) for seed in sorted(one.keys() & other.keys()) if one[seed] > 0 and other[seed] > 0)
        values = " ".join(map(repr, change.differences))
        where = f"{terms}; sd and values of logarithms"
        yield Number(*head, where, change.value, logs.sd if logs else None, low, high, change.n, seeds, values)


def _row(arm: Arm, seen: int, weights: str, metric: str, steps: str, where: str, found: Seeds) -> Iterator[Number]:
    if (m := mean(found.values())) is None:
        return
    seeds, values = " ".join(map(str, found)), " ".join(map(repr, found.values()))
    head = (arm.name, arm.family, arm.beta, seen, weights, metric, steps, where)
    yield Number(*head, m.mean, m.sd, m.low, m.high, m.n, seeds, values)
