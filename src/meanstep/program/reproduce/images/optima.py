"""Is the coefficient of least error larger than that of the best samples? Two conditions, each on its own. Knows no figures and no page.

The difference of the two, by seed, is the size; but noise alone puts the vertex of a parabola anywhere, mostly at an end. So the claim
needs the distances themselves besides: the constant nearest to the least error is worse than some constant below it. All below it are
asked, as the best of them is known from the same samples only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from meanstep.program.pages.statistics import LEVEL, Change, holm, mean
from meanstep.program.pages.verdicts import Range, Row, decide, readable_p, verdict, with_interval
from meanstep.program.reproduce.images import quantities as q
from meanstep.program.reproduce.images.results import CENTER_WORDS, CENTERS, Arm, Results
from meanstep.program.reproduce.report.claims import Stated

APART: tuple[Range, Range] = (0.05, inf), (0.0, inf)
TEST = (
    "By seed, at the end, two β are compared, both in the range of the constants. One minimises M(β), the error of the signal. At the "
    "other the parabola through the log distances of the constants is least. Taken is the first β minus the second. It contradicts the "
    f"claim below {APART[0][0]:g}. It agrees above 0, if the constant nearest to the least error also makes worse samples than some "
    "constant below it. That is tested by a one-sided paired t, with Holm's correction over all constants below it. Where every seed has "
    "the same difference, at the ends of the range, there is no interval. Then the distances alone decide, by the constants below or above."
)
NEEDS = "it needs the constants 0, 0.25, 0.5 and 1 (--arms constants) with their probes"


@dataclass(frozen=True)
class Evidence:
    """The constant nearest to the least error, its distance over that of the constants on one side, and the least p-value of worse."""

    nearest: Arm
    changes: dict[float, Change]
    p: float | None
    beta: float | None

    @property
    def worse(self) -> bool:
        """Whether it is worse than one of them."""
        return self.p is not None and self.p < LEVEL

    @property
    def sentence(self) -> str:
        """In words."""
        said = f"β = {self.nearest.beta:g}, the constant nearest to the least error,"
        if self.beta is None:
            return f"{said} cannot be compared with constants below it."
        over = f" after Holm's correction over {many} constants" if (many := len(self.changes)) > 1 else ""
        found = f"{with_interval(self.changes[self.beta])} times the distance of β = {self.beta:g}"
        return f"{said} has {found}. The one-sided p-value is {readable_p(self.p)}{over}."


def evidence(results: Results, center: str, steps: str = "1", *, below: bool = True) -> Evidence | None:
    """Whether the constant nearest to the least error is worse than some constant below, or above, it; None without both."""
    least = mean(q.error_optimal(results, results.base, results.end, center).values())
    arms = {arm.beta or 0.0: arm for arm in results.constants if results.distance(arm, results.end, "ema", steps)}
    if least is None or not arms:
        return None
    nearest = min(arms, key=lambda beta: (round(abs(beta - least.mean), 12), beta))
    side = [beta for beta in arms if (beta < nearest if below else beta > nearest)]
    changes = {beta: q.equal_steps(results, arms[nearest], arms[beta], "ema", steps) for beta in side}
    adjusted = zip(changes, holm([change.p(side="greater") for change in changes.values()]), strict=True)
    known = {beta: p for beta, p in adjusted if p is not None}
    beta = min(known, key=lambda each: known[each], default=None)
    return Evidence(arms[nearest], changes, None if beta is None else known[beta], beta)


def stated(key: str, text: str, source: str, steps: Callable[[Results], Sequence[str]]) -> Stated:
    """The claim for some numbers of steps of the sampler."""

    def decision(results: Results, rows: Sequence[Row]) -> tuple[str, tuple[Row, ...]]:
        """As any claim, and each row needs the distances too."""
        keys = {_where(n, CENTER_WORDS[center]): (center, n) for n in steps(results) for center in CENTERS}
        judged = sum(row.claimed is not None and row.change.n > 0 for row in rows)
        made = tuple(row if row.claimed is None else _with_distances(row, results, *keys[row.where], judged) for row in decide(rows)[1])
        return verdict(made), made

    def told(results: Results, sentence: str) -> str:
        found = [(_where(n), evidence(results, center, n)) for n in steps(results) for center in CENTERS]
        said = dict.fromkeys(f"{where}: {each.sentence}" for where, each in found if each and each.beta is not None)
        return " ".join([sentence, *(f"{words[0].upper()}{words[1:]}" for words in said)])

    return Stated(key, text, source, TEST, "Difference of the two β", lambda results: _rows(results, steps(results)), NEEDS, decision, told)


def _rows(results: Results, steps: Sequence[str]) -> list[Row]:
    """Those that are judged; for information raw weights, the best constant in place of the vertex, and the distances."""
    pairs = [(n, center) for n in steps for center in CENTERS]
    rows = [
        Row(_where(n, CENTER_WORDS[c]), q.mismatch(results, results.end, c, "ema", n), "0.94" if n == "1" else "", *APART) for n, c in pairs
    ]
    for n in steps:
        rows.append(Row(_where(n, "raw weights"), q.mismatch(results, results.end, "data", "raw", n)))
        rows.append(Row(_where(n, "best constant itself"), q.mismatch(results, results.end, "data", "ema", n, grid=True)))
        if found := evidence(results, CENTERS[0], n) or evidence(results, CENTERS[1], n):
            words = f"ratio of distances, β = {found.nearest.beta:g} over β ="
            rows += [Row(_where(n, f"{words} {beta:g}"), change) for beta, change in found.changes.items()]
    return rows


def _with_distances(row: Row, results: Results, center: str, n: str, judged: int) -> Row:
    if row.finding == "contradicts":
        return row
    same = row.change.n > 1 and row.change.interval is None
    if same and row.change.value < APART[0][0]:
        above = evidence(results, center, n, below=False)
        against = above is not None and above.p is not None and above.p * judged < LEVEL
        return replace(row, finding="contradicts" if against else "open")
    below = evidence(results, center, n)
    agrees = below is not None and below.worse and (same or row.finding == "agrees")
    return replace(row, finding="agrees" if agrees else "open")


def _where(n: str, words: str = "") -> str:
    return f"{'one step' if n == '1' else f'{n} steps'}{', ' if words else ''}{words}"
