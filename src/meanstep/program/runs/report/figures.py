"""The figures of a run's report: curves over samples seen. Knows no page."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from meanstep.program.pages.look import AMBER, BLUE, GREEN, MUTED, ORANGE, PINK, RAMP, end_labels, log_ticks, sheet, short
from meanstep.program.runs.report.answer import floor
from meanstep.program.runs.report.history import Curve, History

MOST = 300
"""Points of a curve; more are drawn as means over as many stretches, in a band from the least to the largest."""
GAPS = ("0.25", "0.5", "0.75", "1")
Line = tuple[Curve, str, str]
COLOURS = (BLUE, GREEN, AMBER, PINK, ORANGE)


def distances(run: History) -> Figure | None:
    """Distances by number of steps, the best marked, and their floor where it is known."""
    found = run.distances()
    if not found:
        return None
    figure, (ax,) = sheet(1, 1, 3.3, 10.0)
    named = [(curve, f"{k} step{'s' if k > 1 else ''}", colour) for (k, curve), colour in zip(found.items(), COLOURS, strict=False)]
    _lines(ax, run, named, log=True)
    if run.best is not None:
        x, y = run.best["seen"], run.far(run.best)
        colour = dict(zip(found, COLOURS, strict=False)).get(int(run.by), BLUE)
        ax.plot(x, y, "o", ms=13, mfc="none", mec=colour, mew=1.8, zorder=4, label="best")
        right = x > 0.6 * run.seen
        ax.annotate(
            f"best: {y:.3g}",
            (x, y),
            (-14 if right else 14, 16),
            textcoords="offset points",
            color=colour,
            fontsize=10,
            fontweight="bold",
            ha="right" if right else "left",
        )
    if (below := floor(run)) is not None and below > 0:
        ax.axhline(below, color=MUTED, lw=1, ls=(0, (3, 3)))
        if ax.get_yscale() == "log":
            ax.set_ylim(bottom=min(ax.get_ylim()[0], 0.8 * below))
            log_ticks(ax, "y")
    ax.set_title(f"{run.measure} of samples to the data, by steps of the sampler: lower is better")
    return figure


def residuals(run: History) -> Figure | None:
    """Raw residuals on r = t rows, on r < t rows, and the latter by gap."""
    still, moving = run.curve("residual_diagonal"), run.curve("residual_gap")
    if not len(still[0]) and not len(moving[0]):
        return None
    by_gap = [(run.curve(f"residual_gap_{gap}"), gap) for gap in GAPS]
    by_gap = [(curve, gap) for curve, gap in by_gap if len(curve[0])]
    lows = dict(zip(GAPS, ("0", *GAPS), strict=False))
    figure, axes = sheet(1, 2 if by_gap else 1, 3.0, 11.0 if by_gap else 7.0)
    _lines(axes[0], run, [(still, "r = t", ORANGE), (moving, "r < t", BLUE)], log=True)
    axes[0].set_title("Mean squared residual, unweighted")
    if by_gap:
        lines = [(curve, f"{lows[gap]} to {gap}", _shade(k)) for k, (curve, gap) in enumerate(by_gap)]
        _lines(axes[1], run, lines, log=True)
        axes[1].set_title("The r < t rows by gap t - r")
    return figure


def _shade(k: int) -> Any:
    return RAMP(k / (len(GAPS) - 1))


def signals(run: History) -> Figure | None:
    """What shows how the training is: gradient, rate, change of u, tangent noise, rows that count, speed; those that have values."""
    panels = [(title, [(run.curve(name), word, colour) for name, word, colour in lines], log) for title, lines, log in SIGNALS]
    panels = [(title, [line for line in lines if len(line[0][0])], log) for title, lines, log in panels]
    panels = [(title, lines, log) for title, lines, log in panels if any(np.any(y) for (_, y), _, _ in lines)]
    if not panels:
        return None
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    figure, axes = sheet(-(-len(panels) // columns), columns, 2.3, 11.0, n=len(panels))
    for ax, (title, lines, log) in zip(axes, panels, strict=False):
        _lines(ax, run, lines, log=log, within=(-0.03, 1.05) if title == WEIGHT else None)
        ax.set_title(title)
    return figure


WEIGHT = "Rows by their weight, shares"
SIGNALS: tuple[tuple[str, Sequence[tuple[str, str, str]], bool], ...] = (
    ("Norm of the gradient, before clipping", [("gradient_norm", "", PINK)], True),
    ("Learning rate", [("rate", "", MUTED)], False),
    (WEIGHT, [("saturated", "saturated", ORANGE), ("effective_rows", "effective", BLUE)], False),
    ("Change of u, |(t - r) du/dt| / |u|", [("change_ratio", "", GREEN)], False),
    ("Noise that the tangent keeps out", [("tangent_noise", "", BLUE)], False),
    ("Samples a second", [("samples_per_second", "", MUTED)], False),
)


def _lines(ax: Axes, run: History, lines: Sequence[Line], *, log: bool, within: tuple[float, float] | None = None) -> None:
    """Curves with their words at their ends, over samples seen; dashed: where the run went on."""
    lines = [line for line in lines if len(line[0][0])]
    for (x, y), _, colour in lines:
        x, y, low, high = thinned(x, y)
        if len(x) == MOST:
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(x, y, color=colour, marker="o" if len(x) < 25 else None, ms=3.5)
    for seen in run.resumed:
        ax.axvline(seen, color="#9aa5b1", lw=0.8, ls=(0, (3, 3)), zorder=1)
    ax.set_xlim(0, max(1.02 * run.seen, 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.set_xlabel("samples seen")
    values = np.concatenate([y for (_, y), _, _ in lines]) if lines else np.ones(1)
    if within is not None:
        ax.set_ylim(*within)
    elif log and values.min() > 0 and values.max() > 3 * values.min():
        log_ticks(ax, "y", pad=1.1)
    elif values.min() >= 0:
        ax.set_ylim(0, 1.12 * float(values.max()) or 1)
    end_labels(ax, [(float(y[-1]), word, colour) for (_, y), word, colour in lines if word], gap=0.095, size=9)


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A curve of at most so many points: means over stretches of it, and the least and the largest value of each."""
    if len(x) <= most:
        return x, y, y, y
    parts = np.array_split(np.arange(len(x)), most)
    means = [np.array([f(values[part]) for part in parts]) for f, values in ((np.mean, x), (np.mean, y), (np.min, y), (np.max, y))]
    return means[0], means[1], means[2], means[3]


FIGURES: dict[str, Callable[[History], Figure | None]] = {"distances": distances, "residuals": residuals, "signals": signals}
