"""Does an arm beat every constant coefficient? An intersection-union test per arm, Holm's correction over the arms. Knows no page.

An arm beats every constant if it is better than each: the largest of the one-sided p-values decides, which needs no correction over the
constants. It is beaten if it is worse than one of them: the smallest of the p-values of the other side, times their number. Each constant
is met at the seeds that both have. Where a constant broke off it is beaten, and that seed is left out; an arm that broke off cannot win.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from meanstep.program.pages.statistics import LEVEL, Change, detectable, holm, ratio
from meanstep.program.pages.verdicts import readable_p, with_interval
from meanstep.program.reproduce.images.quantities import TERMS
from meanstep.program.reproduce.images.results import Arm, Results
from meanstep.program.reproduce.report.prose import some

Lacking = dict[float, tuple[int, ...]]


@dataclass(frozen=True)
class Contest:
    """Ratios of an arm to each constant, by coefficient; p-values after Holm's correction over arms, None where nothing can be tested.

    `failed`: seeds at which the arm broke off, `absent`: at which it is missing; `beaten`, `lacking`: the same of each constant.
    """

    arm: Arm
    changes: dict[float, Change]
    failed: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()
    beaten: Lacking = field(default_factory=dict)
    lacking: Lacking = field(default_factory=dict)
    p_better: float | None = None
    p_worse: float | None = None

    @property
    def hardest(self) -> float | None:
        """The constant that decides: that of the largest one-sided p-value, or of the largest ratio where there is none."""
        known = {beta: (-1.0 if (p := each.p(side="less")) is None else p, each.value) for beta, each in self.changes.items() if each.n}
        return max(known, key=lambda beta: known[beta]) if known else None

    @property
    def change(self) -> Change:
        """The ratio to that constant."""
        return self.changes[self.hardest] if self.hardest is not None else Change(())

    @property
    def nearest(self) -> float | None:
        """The constant that comes nearest to the arm, of the largest ratio: what the arm gains over any constant it gains over this one."""
        known = {beta: each.value for beta, each in self.changes.items() if each.n}
        return max(known, key=lambda beta: known[beta]) if known else None

    @property
    def least(self) -> Change:
        """The ratio to that constant."""
        return self.changes[self.nearest] if self.nearest is not None else Change(())

    @property
    def finding(self) -> str:
        """`agrees` if it beats every constant, `contradicts` if one beats it, else `open`."""
        if self.p_better is not None and self.p_better < LEVEL:
            return "agrees"
        return "contradicts" if self.p_worse is not None and self.p_worse < LEVEL else "open"

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What is missing of the comparison: whose, and what."""
        own = [(self.arm.name, f"broke off at {_seeds(self.failed)}, cannot win")] if self.failed else []
        own += [(self.arm.name, f"not that far at {_seeds(self.absent)}")] if self.absent else []
        lost = [(f"β = {beta:g}", f"broke off at {_seeds(seeds)}, counts as beaten") for beta, seeds in self.beaten.items()]
        return [*own, *lost, *((f"β = {beta:g}", f"not that far at {_seeds(seeds)}") for beta, seeds in self.lacking.items())]

    @property
    def words(self) -> str:
        """The notes, each thing once."""
        return together(self.notes)

    @property
    def p(self) -> str:
        """That of the finding, in words."""
        p, words = (self.p_worse, "worse than one") if self.finding == "contradicts" else (self.p_better, "better than all")
        return "" if p is None else f" ({words}: p {'' if p < 0.001 else '= '}{readable_p(p)} by Holm)"

    def cell(self, beta: float) -> str:
        """The ratio to a constant, or why there is none."""
        if self.changes[beta].n:
            return with_interval(self.changes[beta])
        return "broke off" if beta in self.beaten and beta not in self.lacking else "not that far"


def together(notes: Iterable[tuple[str, str]]) -> str:
    """Notes in words: what is missing once, after the names of all that miss it."""
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in _gathered(notes).items())


def noted(notes: Iterable[tuple[str, str]]) -> str:
    """The same in sentences, empty without notes."""
    return " ".join(f"Note on {some([*names], 6)}: {what}." for what, names in _gathered(notes).items())


def _gathered(notes: Iterable[tuple[str, str]]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for who, what in notes:
        found.setdefault(what, {})[who] = None
    return found


def contests(results: Results, terms: str, weights: str = "ema", steps: str = "1") -> list[Contest]:
    """Of every schedule and recipe that can be compared with a constant at least."""
    found = [_contest(results, arm, terms, weights, steps) for arm in results.others]
    found = [each for each in found if each.hardest is not None]
    better, worse = holm([_better(each) for each in found]), holm([_worse(each) for each in found])
    return [replace(c, p_better=p, p_worse=q) for c, p, q in zip(found, better, worse, strict=True)]


def unmatched(results: Results, terms: str, weights: str = "ema", steps: str = "1") -> list[tuple[str, str]]:
    """Notes on the schedules and recipes that have begun and cannot be compared with any constant: whose, and why."""
    theirs = _begun(results, *results.constants)
    alone = (arm for arm in results.others if theirs and _contest(results, arm, terms, weights, steps).hardest is None)
    return [(arm.name, _why(results, arm, theirs, weights, steps)) for arm in alone if _begun(results, arm)]


def _why(results: Results, arm: Arm, theirs: set[int], weights: str, steps: str) -> str:
    own = _begun(results, arm)
    if not own & theirs:
        return "no seed in common with a constant"
    if results.distance(arm, results.end, weights, steps):
        return "no constant that far at a seed in common"
    (broke,) = results.broke(arm)
    return f"broke off at {_seeds(broke)}, cannot win" if broke else f"not that far at {_seeds(own)}"


def _begun(results: Results, *arms: Arm) -> set[int]:
    names = {arm.name for arm in arms}
    return {seed for name, seed in (*results.runs, *results.failed) if name in names}


def lost(results: Results, found: Sequence[Contest]) -> bool:
    """Whether a constant beats every schedule and recipe; one that has not met a constant yet may still win, unless it broke off."""
    met = {contest.arm for contest in found}
    none = all(contest.finding == "contradicts" for contest in found)
    return bool(found) and none and all(arm in met or any(results.broke(arm)) for arm in results.others)


def smallest(found: list[Contest]) -> tuple[float, int, int] | None:
    """The ratio to one constant that the first step of Holm's procedure finds with 80 percent power, at the pooled spread of all pairs.

    With the seeds and the arms that it is for; None where nothing was paired.
    """
    changes = [change for contest in found for change in contest.changes.values() if change.n > 1]
    if not changes:
        return None
    n, arms = min(change.n for change in changes), max(1, sum(contest.p_better is not None for contest in found))
    sd = float(np.mean([np.var(change.differences, ddof=1) for change in changes])) ** 0.5
    least = detectable(sd, n, level=LEVEL / arms, side="less")
    return None if least is None else (least, n, arms)


def _contest(results: Results, arm: Arm, terms: str, weights: str, steps: str) -> Contest:
    met = {constant.beta or 0.0: (constant, *TERMS[terms](results, arm, constant, weights, steps)) for constant in results.constants}
    own, failed = {seed for _, x, _ in met.values() for seed in x}, results.broke(arm)[0]
    gone = {beta: own & results.broke(constant)[0] - y.keys() for beta, (constant, _, y) in met.items()}
    short = {beta: own - y.keys() - gone[beta] for beta, (_, _, y) in met.items()}
    absent = {seed for constant in results.constants for seed in results.distance(constant, results.end, weights, steps)} - own - failed
    changes = {beta: ratio(x, y) for beta, (_, x, y) in met.items()}
    beaten, lacking = ({beta: tuple(sorted(seeds)) for beta, seeds in found.items() if seeds} for found in (gone, short))
    return Contest(arm, changes, tuple(sorted(failed)), tuple(sorted(absent)), beaten, lacking)


def _better(contest: Contest) -> float | None:
    """The intersection-union test's p-value; none if a constant is missing, or has too few seeds of the arm's."""
    if contest.failed:
        return 1.0
    met = [change for beta, change in contest.changes.items() if change.n or beta not in contest.beaten or beta in contest.lacking]
    known = [p for change in met if (p := change.p(side="less")) is not None]
    return max(known) if known and len(known) == len(met) else None


def _worse(contest: Contest) -> float | None:
    known = [p for change in contest.changes.values() if (p := change.p(side="greater")) is not None]
    return min(1.0, len(known) * min(known)) if known else None


def _seeds(seeds: Iterable[int]) -> str:
    found = sorted(seeds)
    return f"{'seed' if len(found) == 1 else 'seeds'} {', '.join(map(str, found))}"
