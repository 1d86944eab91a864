"""One published number beside what came out here: comes out, does not, or cannot be told; by rules that were fixed before any run.

*With a spread*: Welch's 95 percent interval of ours less theirs. It excludes 0: does not. It holds 0 and its half-width, the smallest
difference that the seeds could have shown, is at most a quarter of the published number: comes out. Otherwise: cannot tell. *Without*:
theirs is one more run of ours, whose interval has the width of a prediction. Nothing is said at another length than the published one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.stats import t as student

from meanstep.program.pages.statistics import LEVEL, Change, Mean

SHARE = 0.25
OUT, NOT, UNTOLD = "comes out", "does not", "cannot tell"


@dataclass(frozen=True)
class Verdict:
    """`word`: OUT, NOT or UNTOLD; `why`: in a few words; `detectable`: the smallest difference that could be seen, None if unknown."""

    word: str
    why: str
    detectable: float | None = None


def summed(change: Change, as_shown: Callable[[float], float] = float) -> Mean | None:
    """A paired change as a mean with its interval, every number through a rising function; None without a pair."""
    if not change.n:
        return None
    low, high = (as_shown(edge) for edge in change.interval) if change.interval else (None, None)
    return Mean(as_shown(change.value), None, low, high, change.n)


def compared(ours: Sequence[float], theirs: float, deviation: float | None, seeds: int, scale: float | None = None) -> Verdict:
    """Ours, a value a seed, against a published number; `scale`: what a quarter is taken of, the number itself by default."""
    if len(ours) < 2:
        return Verdict(UNTOLD, "one seed here" if ours else "not measured here")
    difference, half = _difference(ours, theirs, deviation, seeds)
    if abs(difference) > half:
        return Verdict(NOT, f"{difference:+.3g}, more than {half:.2g}", half)
    if half <= SHARE * abs(theirs if scale is None else scale):
        return Verdict(OUT, f"{difference:+.3g}, within {half:.2g}", half)
    return Verdict(UNTOLD, f"{difference:+.3g}, and less than {half:.2g} could not have been seen", half)


def _difference(ours: Sequence[float], theirs: float, deviation: float | None, seeds: int) -> tuple[float, float]:
    n, own = len(ours), variance(ours)
    if deviation is None or seeds < 2:
        square, freedom = own * (1 + 1 / n), float(n - 1)
    else:
        parts = (own / n, n - 1), (deviation**2 / seeds, seeds - 1)
        square = sum(part for part, _ in parts)
        freedom = square**2 / sum(part**2 / free for part, free in parts) if square else float(n - 1)
    return fmean(ours) - theirs, float(student.ppf(1 - LEVEL / 2, freedom)) * square**0.5
