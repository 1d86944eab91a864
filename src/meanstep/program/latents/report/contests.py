"""Does an arm beat every constant coefficient? An intersection-union test per arm, Holm's correction over the arms. Knows no page.

An arm beats every constant if it is better than each: the largest of the one-sided p-values decides, which needs no correction over the
constants. It is beaten if it is worse than one of them: the smallest of the p-values of the other side, times their number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meanstep.program.latents.report.quantities import equal_compute, equal_steps
from meanstep.program.latents.report.results import Arm, Results
from meanstep.program.pages.statistics import LEVEL, Change, detectable, holm

Compare = Callable[[Results, Arm, Arm, str, str], Change]
STEPS_EQUAL, COMPUTE_EQUAL = "after the same samples", "after the same compute"
TERMS: dict[str, Compare] = {STEPS_EQUAL: equal_steps, COMPUTE_EQUAL: equal_compute}


@dataclass(frozen=True)
class Contest:
    """Ratios of an arm to each constant, by coefficient; p-values after Holm's correction over arms, None where a constant is missing."""

    arm: Arm
    changes: dict[float, Change]
    short: tuple[float, ...]
    p_better: float | None = None
    p_worse: float | None = None

    @property
    def hardest(self) -> float | None:
        """The best constant: the one with the largest ratio."""
        known = {beta: change.value for beta, change in self.changes.items() if change.n}
        return max(known, key=lambda beta: known[beta]) if known else None

    @property
    def change(self) -> Change:
        """The ratio to that constant."""
        return self.changes[self.hardest] if self.hardest is not None else Change(())

    @property
    def finding(self) -> str:
        """`agrees` if it beats every constant, `contradicts` if one beats it, else `open`."""
        if self.p_better is not None and self.p_better < LEVEL:
            return "agrees"
        return "contradicts" if self.p_worse is not None and self.p_worse < LEVEL else "open"


def contests(results: Results, terms: str, weights: str = "ema", steps: str = "1") -> list[Contest]:
    """Of every schedule and recipe that can be compared with a constant at least."""
    found = [_contest(results, arm, TERMS[terms], weights, steps) for arm in results.others]
    found = [each for each in found if each.hardest is not None]
    better, worse = holm([_better(each) for each in found]), holm([_worse(each) for each in found])
    return [Contest(c.arm, c.changes, c.short, p, q) for c, p, q in zip(found, better, worse, strict=True)]


def smallest(found: list[Contest]) -> tuple[float, int] | None:
    """The ratio that one paired test finds with 80 percent power at the pooled spread of all pairs, and its seeds."""
    changes = [change for contest in found for change in contest.changes.values() if change.n > 1]
    if not changes:
        return None
    n = min(change.n for change in changes)
    sd = float(np.mean([np.var(change.differences, ddof=1) for change in changes])) ** 0.5
    least = detectable(sd, n)
    return (least, n) if least is not None else None


def _contest(results: Results, arm: Arm, compare: Compare, weights: str, steps: str) -> Contest:
    changes = {constant.beta or 0.0: compare(results, arm, constant, weights, steps) for constant in results.constants}
    whole = len(results.distance(arm, results.end, weights, steps))
    return Contest(arm, changes, tuple(beta for beta, change in changes.items() if change.n < whole))


def _better(contest: Contest) -> float | None:
    """The intersection-union test's p-value; none if a constant is missing or has not got that far."""
    ps = [change.p(side="less") for change in contest.changes.values()]
    known = [p for p in ps if p is not None]
    return max(known) if known and len(known) == len(ps) and not contest.short else None


def _worse(contest: Contest) -> float | None:
    known = [p for change in contest.changes.values() if (p := change.p(side="greater")) is not None]
    return min(1.0, len(known) * min(known)) if known else None
