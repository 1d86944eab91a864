"""Comparisons across seeds on the scale of log ratios, with intervals and tests. Knows no records and no claims.

Models of one set and seed share initial weights, data, noise and times, so their difference is taken seed by seed and the t-distribution
does the rest. Below two differences there is no interval and no p-value.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.05


@dataclass(frozen=True)
class Mean:
    """Mean of `n` values, its standard deviation (None below two values) and 95% t-interval."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Change:
    """Paired differences, or log ratios if `logs`: one for each unit (a seed, or a set); `clipped`: equal ones are so by an edge.

    `over`, `under`: pairs of which the first, or the second, diverged alone. Theirs would be above, or below, all others, so that these
    show nothing lower, or higher.
    """

    differences: tuple[float, ...]
    logs: bool = True
    clipped: bool = False
    over: int = 0
    under: int = 0

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.differences)

    @property
    def known(self) -> bool:
        """Whether there is a pair, or one that diverged."""
        return bool(self.n + self.over + self.under)

    @property
    def value(self) -> float:
        """Geometric mean of the ratios, or mean difference; nan without pairs."""
        return self._out(float(np.mean(self.differences))) if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% t-interval, None below two pairs, if all are one edge, and for ratios that are all exactly 1: a model with itself."""
        if self._constructed:
            return None
        found = mean(self.differences)
        return None if found is None or found.low is None or found.high is None else (self._out(found.low), self._out(found.high))

    def p(self, null: float | None = None, side: str = "two-sided") -> float | None:
        """The t-test's p-value against `null` (default: no change); `side` is "less" or "greater" for a one-sided alternative."""
        if self.n < 2 or self._constructed:
            return None
        if {"less": self.over, "greater": self.under}.get(side):
            return 1.0
        at = (0.0 if null is None else log(null)) if self.logs else (null or 0.0)
        if np.ptp(self.differences) == 0:  # no spread: the t-statistic is infinite, or 0/0
            gap = self.differences[0] - at
            return 1.0 if gap == 0 else float({"less": gap > 0, "greater": gap < 0}.get(side, False))
        t = (float(np.mean(self.differences)) - at) / float(np.std(self.differences, ddof=1)) * self.n**0.5
        return float({"less": stdtr(self.n - 1, t), "greater": stdtr(self.n - 1, -t)}.get(side, 2 * stdtr(self.n - 1, -abs(t))))

    def outside(self, low: float, high: float) -> float | None:
        """Two-sided p-value against the whole range: small if the mean lies below `low` or above `high`."""
        tails = [self.p(edge, side) for edge, side in ((low, "less"), (high, "greater")) if self._finite(edge)]
        known = [p for p in tails if p is not None]
        return min(1.0, 2 * min(known)) if known else None

    def inside(self, low: float, high: float) -> bool:
        """Whether the 95% interval lies in the range, and no pair that diverged beyond it."""
        beyond = (self.over and self._finite(high)) or (self.under and self._finite(low))
        return self.interval is not None and not beyond and low <= self.interval[0] and self.interval[1] <= high

    def reaches(self, low: float, high: float) -> bool:
        """Whether the 95% interval and the range have a point in common."""
        return self.interval is not None and self.interval[0] <= high and low <= self.interval[1]

    @property
    def _constructed(self) -> bool:
        same = self.n > 1 and len(set(self.differences)) == 1
        return same and (self.clipped or (self.logs and not self.differences[0]))

    def _finite(self, edge: float) -> bool:
        return isfinite(edge) and (edge > 0 or not self.logs)

    def _out(self, x: float) -> float:
        return exp(x) if self.logs else x


def mean(values: Iterable[float]) -> Mean | None:
    """Mean with its interval, None without values."""
    x = np.array([*values], dtype=float)
    if not x.size:
        return None
    if x.size < 2:
        return Mean(float(x[0]), None, None, None, 1)
    sd = float(x.std(ddof=1))
    half = float(stdtrit(x.size - 1, 1 - LEVEL / 2)) * sd / x.size**0.5
    return Mean(float(x.mean()), sd, float(x.mean()) - half, float(x.mean()) + half, x.size)


def logs(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """Logarithms of `a` over `b`, of the seeds that both have with positive finite values."""
    return {seed: log(a[seed] / b[seed]) for seed in sorted(a.keys() & b.keys()) if _positive(a[seed]) and _positive(b[seed])}


def ratio(a: Mapping[int, float], b: Mapping[int, float], *, broken: Sequence[Collection[int]] = ((), ())) -> Change:
    """Of `a` over `b`, paired by seed; `broken`: seeds at which each of the two diverged, which count where the other has a value alone."""
    first, second = ({seed for seed, value in found.items() if _positive(value)} for found in (a, b))
    over, under = (
        len((there - here).intersection(gone)) for here, there, gone in zip((first, second), (second, first), broken, strict=True)
    )
    return Change(tuple(logs(a, b).values()), over=over, under=under)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Change:
    """Of `a` minus `b`, paired by the seeds that both have with finite values."""
    seeds = [seed for seed in sorted(a.keys() & b.keys()) if isfinite(a[seed]) and isfinite(b[seed])]
    return Change(tuple(a[seed] - b[seed] for seed in seeds), logs=False)


def across(changes: Iterable[Change]) -> Change:
    """The means of several sets as the units, of sets with two seeds or more: is it so for sets in general?"""
    every = [*changes]
    found = [change for change in every if change.n > 1]
    means = tuple(float(np.mean(change.differences)) for change in found)
    broken = {side: sum(getattr(change, side) for change in every) for side in ("over", "under")}
    return Change(means, logs=all(change.logs for change in found), **broken)


def detectable(sd: float, n: int, power: float = 0.8, *, level: float = LEVEL, side: str = "two-sided") -> float | None:
    """The ratio below 1 that a paired t-test on the log ratios of `n` pairs finds with this power; any nearer to 1 is likely missed.

    Of the right sign, from the noncentral t-distribution; `side`: "less" for the one-sided test. `sd` is that of the log ratios. None below
    two pairs.
    """
    if n < 2:
        return None
    from scipy import optimize, stats  # takes a second

    edge = float(stdtrit(n - 1, 1 - (level if side == "less" else level / 2)))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(edge, n - 1, shift)) - power  # the other tail is nothing where the power is high

    return exp(-float(optimize.brentq(missing, 0.0, 40.0 + 4 * edge)) * sd / n**0.5)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values of one family; None stays None and does not count."""
    order = sorted((i for i, p in enumerate(ps) if p is not None), key=lambda i: ps[i] or 0.0)
    adjusted: list[float | None] = [None] * len(ps)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * (ps[i] or 0.0)))
        adjusted[i] = running
    return adjusted


def _positive(x: float) -> bool:
    return isfinite(x) and x > 0
