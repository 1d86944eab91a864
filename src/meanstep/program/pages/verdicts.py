"""What a claim is and how it is decided from paired changes. Knows no records and no claim in particular.

A row of a claim has two ranges. If the mean lies significantly outside of `claimed` (Holm's correction over the rows of the claim), the row
contradicts it; otherwise, if the whole 95% interval lies in `shown` and reaches into `claimed`, it agrees; otherwise it is open, as is a
row that was not measured, or whose pairs that diverged would decide otherwise. A claim holds only if every row agrees, which needs no
correction, and does not hold if one contradicts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from meanstep.program.pages.statistics import LEVEL, Change, holm

Range = tuple[float, float]
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
NONE = 0.02
"""A relative difference smaller than this counts as none."""
NAMED = 2
"""So many rows are named in a sentence."""
LOWER: tuple[Range, Range] = (0.0, 1 - NONE), (0.0, 1.0)
HIGHER: tuple[Range, Range] = (1 + NONE, inf), (1.0, inf)
RULE = (
    "A row contradicts a claim if its mean lies outside the claimed range, by a t-test across its units at 5%. Holm's correction is over "
    "the rows of the claim. A row agrees if its whole 95% interval is on the claimed side and reaches into that range. Otherwise it is "
    "open, as is one that was not measured, or whose better side diverged where the other did not. A claim holds if every row agrees and "
    f"does not hold if one contradicts it. Where no size is claimed, a difference below {NONE:.0%} counts as none. There is no correction "
    "across claims."
)


@dataclass(frozen=True)
class Row:
    """One comparison of a claim; without `claimed` it is there for information. `note`: what is said beside the finding."""

    where: str
    change: Change
    paper: str = ""
    claimed: Range | None = None
    shown: Range = (0.0, inf)
    finding: str = ""
    against_none: bool = True
    note: str = ""

    @property
    def p(self) -> float | None:
        """Two-sided, against no change."""
        return self.change.p() if self.against_none else None


@dataclass(frozen=True)
class Claim:
    """A claim with the test that was stated for it, what was measured, the verdict and one sentence made of the numbers."""

    key: str
    text: str
    source: str
    test: str
    quantity: str
    rows: tuple[Row, ...]
    verdict: str
    sentence: str

    @property
    def tests(self) -> int:
        """Rows that a test decided."""
        return sum(row.claimed is not None and row.change.n > 1 for row in self.rows)


def decide(rows: Sequence[Row]) -> tuple[str, tuple[Row, ...]]:
    """The verdict, and the rows with their findings."""
    judged = [row for row in rows if row.claimed is not None]
    adjusted = dict(zip(map(id, judged), holm([row.change.outside(*row.claimed) for row in judged if row.claimed]), strict=True))
    found = tuple(_with_finding(row, adjusted.get(id(row))) for row in rows)
    return verdict(found), found


def verdict(rows: Sequence[Row]) -> str:
    """Of the findings of all rows that are judged."""
    findings = {row.finding for row in rows if row.claimed is not None}
    return FAILS if "contradicts" in findings else HOLDS if findings == {"agrees"} else OPEN


def told(rows: Sequence[Row], quantity: str, needs: str) -> str:
    """What decided rows say in one sentence; `needs` tells which option of the command would give the data that are missing."""
    judged = [row for row in rows if row.claimed is not None and row.change.n]
    if not judged:
        return f"There are no data for it: {needs}."
    absent = _absent(rows, needs)
    if all(row.change.n < 2 for row in judged):
        return f"One seed gives a number but no interval: {_extremes(judged, quantity)}. Run it with --seeds 0:3.{absent}"
    return f"{_extremes(judged, quantity)}. {_tally(judged)}{absent}"


def shown(name: str) -> str:
    """A name for people."""
    return name.replace("_", " ")


def number(x: float) -> str:
    """Three significant digits, without an exponent where it is readable so."""
    return "0" if x == 0 else f"{x:#.3g}".rstrip(".") if abs(x) < 999.5 else f"{x:,.0f}"


def with_interval(change: Change) -> str:
    """`0.46 [0.41, 0.52]`, the number alone, or that there is none."""
    if not change.n:
        return "not measured"
    found = change.interval
    return number(change.value) + (f" [{number(found[0])}, {number(found[1])}]" if found else "")


def diverged(change: Change) -> str:
    """That one side diverged where the other did not, and what follows; empty where none did."""
    sides = (("the first", change.over, "lower"), ("the second", change.under, "higher"))
    pairs = [(side, f"{n} {'pair' if n == 1 else 'pairs'}", way) for side, n, way in sides if n]
    return "; ".join(f"{side} of the two diverged alone in {many}, so the ratio is not called {way}" for side, many, way in pairs)


def readable_p(p: float | None) -> str:
    """A p-value for people."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _with_finding(row: Row, adjusted: float | None) -> Row:
    if row.claimed is None:
        return row
    agrees = row.change.inside(*row.shown) and row.change.reaches(*row.claimed)
    finding = "contradicts" if adjusted is not None and adjusted < LEVEL else "agrees" if agrees else "open"
    said = diverged(row.change)
    return replace(row, finding=finding, note=row.note or (f" ({said})" if said else ""))


def _extremes(rows: Sequence[Row], quantity: str) -> str:
    if len(rows) == 1 or len({row.change.value for row in rows}) == 1:
        where = shown(rows[0].where) if len(rows) == 1 else f"all {len(rows)} rows"
        return f"{quantity}: {with_interval(rows[0].change)} ({where})"
    low, high = (pick(rows, key=lambda row: row.change.value) for pick in (min, max))
    return f"{quantity}: from {with_interval(low.change)} ({shown(low.where)}) to {with_interval(high.change)} ({shown(high.where)})"


def _tally(rows: Sequence[Row]) -> str:
    counts = {finding: [row.where for row in rows if row.finding == finding] for finding in ("agrees", "contradicts", "open")}
    if len(rows) == 1:
        return {"agrees": "The test agrees.", "contradicts": "The test contradicts it.", "open": "The interval leaves it open."}[
            rows[0].finding
        ]
    said = f"{len(counts['agrees'])} of {len(rows)} comparisons agree."
    return (
        said + _named("contradicts it", "contradict it", counts["contradicts"]) + _named("leaves it open", "leave it open", counts["open"])
    )


def _absent(rows: Sequence[Row], needs: str) -> str:
    """Which judged rows were not measured, and what would measure them."""
    judged = [row for row in rows if row.claimed is not None]
    absent = [row.where for row in judged if not row.change.n]
    if not absent:
        return ""
    names = ", ".join(map(shown, absent[:NAMED])) + (" and others" if len(absent) > NAMED else "")
    return f" {len(absent)} of {len(judged)} comparisons {'is' if len(absent) == 1 else 'are'} not measured: {names}. To have all, {needs}."


def _named(one: str, many: str, where: Sequence[str]) -> str:
    """How many rows do that, and which they are if they are few: the table below has them all."""
    names = f": {shown('; '.join(where))}" if len(where) <= NAMED else ""
    return f" {len(where)} {one if len(where) == 1 else many}{names}." if where else ""
