"""What its report has beyond any study's: one quantity, one claim and one figure."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from meanstep.program.pages import look
from meanstep.program.pages.statistics import Change
from meanstep.program.pages.verdicts import Row
from meanstep.program.reproduce.report.claims import Stated
from meanstep.program.reproduce.report.page import Report
from meanstep.program.reproduce.report.results import Results
from meanstep.program.reproduce.report.summary import Quantity

from . import KIND


def quantities(results: Results) -> Iterator[Quantity]:
    """Where each descent ends."""
    for name, id in results.by_unit:
        line = next(line for line in KIND.lines(results.about) if line.id == id)
        yield Quantity("value", line, results.by_seed((name, id), lambda record: record["value"]), name)


def ends(results: Results) -> list[Row]:
    """The share of the way to the minimum, which is at the seed."""
    shares = {f"{q.set}, {q.line.id}": [x / seed for seed, x in q.seeds.items()] for q in quantities(results)}
    return [Row(name, Change(tuple(found), logs=False), "1", (0.9, 1.1), (0.9, 1.1)) for name, found in shares.items()]


def drawn(results: Results) -> Figure:
    """The values by seed."""
    figure, (ax,) = look.sheet(1)
    for quantity in quantities(results):
        ax.plot([*quantity.seeds], [*quantity.seeds.values()])
    return figure


CLAIMS = (Stated("arrives", "Every descent arrives.", "calculus", "Share of the way.", "Share", ends, "it needs seeds"),)
FIGURES = {"values": drawn}
REPORT = Report(quantities, claims=CLAIMS, figures=("report",))
