"""The curves of several runs on one chart, and their distances with intervals. Knows no page."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from meanstep.program.compare.runs import Distances, Side
from meanstep.program.pages.look import AMBER, BLUE, GREEN, MUTED, ORANGE, PINK, SKY, end_labels, log_ticks, sheet, short
from meanstep.program.runs.report.answer import floor
from meanstep.program.runs.report.figures import thinned
from meanstep.program.runs.report.history import Curve

COLOURS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, "#4d9e82", "#7467a8")
"""One for each run."""


def distances(found: Sequence[Side], measured: Distances) -> Figure | None:
    """Distances of the evaluations in training, in the fewest steps that all have; None where they are not to be compared."""
    kinds = {(r.get("extractor"), r.get("count"), r.get("measure")) for side in found for r in side.history.of("evaluation")}
    curves = [side.history.distances() for side in found]
    common = set.intersection(*(set(each) for each in curves))
    if not measured.found or len(kinds) != 1 or not common:
        return None
    steps = min(common)
    below = next((x for side in found if (x := floor(side.history)) is not None), None)
    title = f"{found[0].history.measure} of {steps}-step samples to the data, over training: lower is better"
    return _lines(found, [each[steps] for each in curves], title, below)


def residuals(found: Sequence[Side]) -> Figure | None:
    """Mean squared residual where r < t, or where r = t if a run has no other."""
    for name, where in (("residual_gap", "r < t"), ("residual_diagonal", "r = t")):
        curves = [side.history.curve(name) for side in found]
        if all(len(x) for x, _ in curves):
            return _lines(found, curves, f"Mean squared residual where {where}, over training")
    return None


def _lines(found: Sequence[Side], curves: Sequence[Curve], title: str, below: float | None = None) -> Figure:
    figure, (ax,) = sheet(1, 1, 3.3, 10.0)
    labels = []
    for side, (x, y), colour in zip(found, curves, COLOURS, strict=False):
        mx, my, _, _ = thinned(x, y)
        ax.plot(mx, my, color=colour, label=side.name, marker="o" if len(mx) < 25 else None, ms=3.5)
        labels.append((float(my[-1]), side.name, colour))
    if below:
        ax.axhline(below, color=MUTED, lw=1, ls=(0, (3, 3)))
    values = np.concatenate([y for _, y in curves] + ([np.array([below])] if below else []))
    if values.min() > 0 and values.max() > 3 * values.min():
        log_ticks(ax, "y", pad=1.1)
    elif values.min() >= 0:
        ax.set_ylim(0, 1.12 * float(values.max()) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.set_xlabel("samples seen")
    ax.set_title(title)
    end_labels(ax, labels, gap=0.095, size=9)
    return figure
