"""What figures of several workloads draw: ratios as marks, means over seeds as lines. Knows no records and no page."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from meanstep.program.pages.look import INK, WHITE, log_ticks, short
from meanstep.program.pages.statistics import Change, mean
from meanstep.program.reproduce.report.results import Seeds


def mark(ax: Axes, change: Change, y: float, colour: str, marker: str = "o", size: float = 5, width: float = 2.2, words: str = "") -> None:
    """A ratio and its interval at a height; `words`: a format, the value right of it in the colour of the mark."""
    if not change.n:
        return
    ax.plot(change.interval or (change.value,) * 2, (y, y), color=colour, lw=width, alpha=0.45)
    ax.plot(change.value, y, marker, color=colour, ms=size, zorder=4)
    place: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 7.5, "zorder": 6, "bbox": WHITE}
    if words:
        ax.annotate(format(change.value, words), (max(change.interval or (change.value,)), y), color=colour, **place)


def ratios(ax: Axes, names: Sequence[str], label: str, pad: float, at: float | None = 1, **settings: Any) -> None:
    """A row for each name, from the top, on a logarithmic axis with a line at no change."""
    if at is not None:
        ax.axvline(at, color=INK, lw=1)
    ax.set(xscale="log", yticks=range(len(names)), yticklabels=names, **settings)
    ax.set_xlabel(label)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")
    log_ticks(ax, pad=pad)


def series(
    ax: Axes, pairs: Sequence[tuple[float, Seeds]], colour: str, style: Any = "-", width: float = 1.8, name: str | None = None
) -> None:
    """Means over seeds with their 95% intervals, which end at a twentieth of the mean where they would go below."""
    found = [(x, m) for x, seeds in pairs if (m := mean(seeds.values()))]
    ax.plot([x for x, _ in found], [m.mean for _, m in found], color=colour, ls=style, lw=width, marker="o", ms=3, label=name)
    band(ax, [(x, max(m.low, 0.05 * abs(m.mean)), m.high) for x, m in found if m.low is not None and m.high is not None], colour)


def band(ax: Axes, edges: Sequence[tuple[float, float, float]], colour: str, alpha: float = 0.1) -> None:
    """Shading between (x, low, high)."""
    if edges:
        x, low, high = zip(*edges, strict=True)
        ax.fill_between(x, low, high, color=colour, alpha=alpha, lw=0)


def over_samples(ax: Axes, bins: int | None = None, **settings: Any) -> None:
    """Samples seen along the bottom, in few characters."""
    ax.set(**settings)
    ax.xaxis.set_major_formatter(lambda x, _: short(x))
    if bins:
        ax.locator_params(axis="x", nbins=bins)
