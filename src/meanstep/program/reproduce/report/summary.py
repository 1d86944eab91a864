"""The measured numbers of a study, each by seed, and summary.csv of them: mean, spread, interval, the seeds and their values."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meanstep.program.pages.statistics import Change, mean
from meanstep.program.reproduce.report.results import Seeds
from meanstep.program.reproduce.study import Line

STATISTICS = ("mean", "sd", "low95", "high95", "n", "seeds", "values")
COLUMNS = {name: name for name in ("set", "arm", "beta", "id", "seen", "weights", "metric", "steps", "at", *STATISTICS, "floor")}
"""Headings of summary.csv and what is below them."""


@dataclass(frozen=True)
class Quantity:
    """A number of one variant on one set, by seed.

    `steps`: of the sampler; `at`: where a probe was taken, which clock or kind; `seen`: samples of training; `floor`: the least that the
    metric can be; `logs`: the numbers are logarithms of ratios; `broken`: seeds that have none since their training diverged.
    """

    metric: str
    line: Line
    seeds: Seeds
    set: str = ""
    weights: str = ""
    steps: str = ""
    at: str = ""
    seen: int | None = None
    floor: float | None = None
    logs: bool = False
    broken: Collection[int] = ()

    @property
    def change(self) -> Change:
        """Its value and its 95% interval over seeds."""
        return Change(tuple(self.seeds.values()), self.logs)


def rows(found: Iterable[Quantity], columns: Mapping[str, str] = COLUMNS) -> list[dict[str, Any]]:
    """A row for each that has a number; blanks separate `seeds` and `values`."""
    return [{head: row[name] for head, name in columns.items()} for row in (_row(each) for each in found if each.seeds)]


def _row(of: Quantity) -> dict[str, Any]:
    over, (low, high) = mean(of.seeds.values()), of.change.interval or (None, None)
    spread = (of.change.value, over.sd if over else None, low, high, of.change.n)
    held = " ".join(map(str, of.seeds)), " ".join(map(repr, of.seeds.values()))
    return vars(of) | vars(of.line) | dict(zip(STATISTICS, (*spread, *held), strict=True))
