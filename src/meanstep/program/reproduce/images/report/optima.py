"""Is the coefficient of least error larger than that of the best samples? Two conditions, each on its own. Knows no figures and no page.

The difference of the two, by seed, is the size; but noise alone puts the vertex of a parabola anywhere, mostly at an end. So the claim
needs the distances themselves besides: the constant nearest to the least error is worse than some constant below it. All below it are
asked, as the best of them is known from the same samples only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from meanstep.program.pages.statistics import LEVEL, Change, holm, mean
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, Range, Row, claim, decide, readable_p, with_interval
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.results import CENTER_WORDS, CENTERS, Arm, Results

APART: tuple[Range, Range] = (0.05, inf), (0.0, inf)
TEST = (
    "The β that minimises M(β) minus the β where the parabola through the log distances of the constants is least, both in the range of "
    f"the constants, by seed, at the end: contradicted below {APART[0][0]:g}, agreed if above 0 and if besides the constant nearest to the "
    "least error makes worse samples than some constant below it (one-sided paired t, Holm's correction over all below it). Where every "
    "seed has the same difference, at the ends of the range, it has no interval, and the distances alone decide, by the constants below or "
    "above."
)


@dataclass(frozen=True)
class Evidence:
    """The constant nearest to the least error, its distance over that of the constants on one side, and the least p-value of worse."""

    nearest: Arm
    changes: dict[float, Change]
    p: float | None
    beta: float | None

    @property
    def sentence(self) -> str:
        """In words."""
        said = f"β = {self.nearest.beta:g}, the constant nearest to the least error,"
        if self.beta is None:
            return f"{said} cannot be compared with constants below it."
        many = len(self.changes)
        over = f", Holm's correction over {many} constants" if many > 1 else ""
        found = f"{with_interval(self.changes[self.beta])} times the distance of β = {self.beta:g}"
        return f"{said} has {found} (one-sided p = {readable_p(self.p)}{over})."


def evidence(results: Results, center: str, steps: str = "1", *, below: bool = True) -> Evidence | None:
    """Whether the constant nearest to the least error is worse than some constant below, or above, it; None without both."""
    least = mean(q.error_optimal(results, results.base, results.end, center).values())
    arms = [arm for arm in results.constants if results.distance(arm, results.end, "ema", steps)]
    if least is None or not arms:
        return None
    nearest = min(arms, key=lambda arm: (round(abs((arm.beta or 0.0) - least.mean), 12), arm.beta))
    side = [arm for arm in arms if ((arm.beta or 0.0) < (nearest.beta or 0.0) if below else (arm.beta or 0.0) > (nearest.beta or 0.0))]
    changes = {arm.beta or 0.0: q.equal_steps(results, nearest, arm, "ema", steps) for arm in side}
    adjusted = dict(zip(changes, holm([change.p(side="greater") for change in changes.values()]), strict=True))
    known = {beta: p for beta, p in adjusted.items() if p is not None}
    beta = min(known, key=lambda each: known[each], default=None)
    return Evidence(nearest, changes, None if beta is None else known[beta], beta)


def in_one_step(results: Results, source: str, needs: str) -> Claim:
    """The paper's claim."""
    text = "The coefficient of least error is larger than the one of the best one-step samples."
    return _claim(results, "mismatch", text, source, ("1",), needs)


def in_more_steps(results: Results, source: str, needs: str) -> Claim:
    """The same for every other number of steps."""
    text = "It is larger than the one of the best samples in more steps too."
    return _claim(results, "mismatch-steps", text, source, [n for n in results.steps if n != "1"], needs)


def _claim(results: Results, key: str, text: str, source: str, steps: Sequence[str], needs: str) -> Claim:
    judged = {
        (n, c): Row(_where(n, CENTER_WORDS[c]), q.mismatch(results, results.end, c, "ema", n), *_of(n)) for n in steps for c in CENTERS
    }
    found = {key: evidence(results, *reversed(key)) for key in judged}
    rows = [*judged.values(), *(row for n in steps for row in _more(results, n, found[n, CENTERS[0]] or found[n, CENTERS[1]]))]
    decision = partial(_decided, results=results, keys={row.where: key for key, row in judged.items()}, found=found)
    made = claim(key, text, source, TEST, "Difference of the two β", rows, needs, decision)
    said = dict.fromkeys(f"{_where(n)}: {each.sentence}" for (n, _), each in found.items() if each and each.beta is not None)
    return replace(made, sentence=" ".join([made.sentence, *(f"{words[0].upper()}{words[1:]}" for words in said)]))


def _of(n: str) -> tuple[str, Range, Range]:
    return ("0.94" if n == "1" else "", *APART)


def _more(results: Results, n: str, found: Evidence | None) -> list[Row]:
    """For information: raw weights, the best constant in place of the vertex, and the distances."""
    rows = [Row(_where(n, "raw weights"), q.mismatch(results, results.end, "data", "raw", n))]
    rows += [Row(_where(n, "best constant itself"), q.mismatch(results, results.end, "data", "ema", n, grid=True))]
    over = found.changes.items() if found else ()
    nearest = f"{found.nearest.beta:g}" if found else ""
    return rows + [Row(_where(n, f"ratio of distances, β = {nearest} over β = {beta:g}"), change) for beta, change in over]


def _decided(
    rows: Sequence[Row], results: Results, keys: dict[str, tuple[str, str]], found: dict[tuple[str, str], Evidence | None]
) -> tuple[str, tuple[Row, ...]]:
    """As any claim, and each row needs the distances too."""
    judged = sum(row.claimed is not None for row in rows)
    made = tuple(row if row.claimed is None else _with_distances(row, keys[row.where], results, found, judged) for row in decide(rows)[1])
    findings = [row.finding for row in made if row.claimed is not None]
    if "contradicts" in findings:
        return FAILS, made
    return (HOLDS if findings and set(findings) == {"agrees"} else OPEN), made


def _with_distances(row: Row, key: tuple[str, str], results: Results, found: dict[tuple[str, str], Evidence | None], judged: int) -> Row:
    if row.finding == "contradicts":
        return row
    same = row.change.n > 1 and row.change.interval is None
    if same and row.change.value < APART[0][0]:
        above = evidence(results, *reversed(key), below=False)
        against = above is not None and above.p is not None and above.p * judged < LEVEL
        return replace(row, finding="contradicts" if against else "open")
    below = found[key]
    worse = below is not None and below.p is not None and below.p < LEVEL
    return replace(row, finding="agrees" if worse and (same or row.finding == "agrees") else "open")


def _where(n: str, words: str = "") -> str:
    return f"{'one step' if n == '1' else f'{n} steps'}{', ' if words else ''}{words}"
