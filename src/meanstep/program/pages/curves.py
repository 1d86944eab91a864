"""The curves of a drawn figure as a page's chart, so that picture and chart cannot differ. Knows no subject."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from meanstep.program.pages.charts import Axis, Chart, Curve, Guide, Numbers, Panel

MOST = 40
"""Curves a panel may have on average before the picture alone is shown."""


def of(figure: Figure) -> Chart | None:
    """The chart of a drawn figure of curves; None where a panel holds something else, such as a map or a histogram, or nothing."""
    found = [_panel(ax, figure) for ax in figure.axes if ax.get_visible()]
    panels = [panel for panel in found if panel is not None]
    if len(panels) < len(found) or not panels or sum(len(panel.curves) for panel in panels) > MOST * len(panels):
        return None
    labels = [panel.x.label for panel in panels if panel.x.label]  # of panels one above the other only the lowest says it
    named = [replace(panel, x=replace(panel.x, label=panel.x.label or (labels[0] if labels else ""))) for panel in panels]
    return Chart(named)


def _panel(ax: Axes, figure: Figure) -> Panel | None:
    if ax.yaxis_inverted():  # rows by name, not a curve
        return None
    across, others = _patches(ax)
    if ax.images or others or any(not isinstance(each, PolyCollection | PathCollection | LineCollection) for each in ax.collections):
        return None
    names = _names(ax, figure)
    lines = [line for line in ax.get_lines() if line.get_clip_on()]
    inside = [line for line in lines if line.get_transform().contains_branch(ax.transData)]  # drawn aside, too: at its own x
    guides = across + [_guide(line) for line in lines if line not in inside]
    spans = [_span(each) for each in ax.collections if isinstance(each, PolyCollection)]
    upright = [line for line in inside if np.size(line.get_xdata()) == 2 and len(set(np.asarray(line.get_xdata(), float))) == 1]
    drawn = [line for line in inside if line not in upright and np.isfinite(np.asarray(line.get_ydata(), float)).any()]
    curves = [_curve(line, _name(line, names, only=len(drawn) == 1, title=ax.get_title(loc="left")), spans, upright) for line in drawn]
    curves += [curve for each in ax.collections if isinstance(each, PathCollection) and (curve := _marks(each, names))]
    return Panel(ax.get_title(loc="left") or ax.get_title(), _axis(ax, "x"), _axis(ax, "y"), curves, guides) if curves else None


def _patches(ax: Axes) -> tuple[list[Guide], bool]:
    """Stretches of y across the whole panel, and whether there is any other patch."""
    found, others = [], False
    for patch in ax.patches:
        if isinstance(patch, Rectangle) and (patch.get_x(), patch.get_width()) == (0, 1) and patch.get_transform() != ax.transData:
            found.append(Guide("y", float(patch.get_y()), float(patch.get_y() + patch.get_height()), False))
        else:
            others = True
    return found, others


def _names(ax: Axes, figure: Figure) -> dict[tuple[str, bool], str]:
    """Words by colour and dashes, of the key above the panels and of those at the ends of lines."""
    found: dict[tuple[str, bool], str] = {}
    handles = [(h, t.get_text()) for legend in figure.legends for h, t in zip(legend.legend_handles, legend.get_texts(), strict=True)]
    for handle, words in handles:
        if isinstance(handle, Line2D):
            found.setdefault((to_hex(handle.get_color()), handle.get_linestyle() not in ("-", "None")), words)
    for text in ax.texts:
        if not text.get_clip_on() and text.get_transform() == ax.transAxes and text.get_position()[0] > 1:
            found.setdefault((to_hex(text.get_color()), False), text.get_text())
    return found


def _name(line: Line2D, names: dict[tuple[str, bool], str], *, only: bool, title: str) -> str:
    own, colour = str(line.get_label()), to_hex(line.get_color())
    if not own.startswith("_"):
        return own
    return names.get((colour, _dashed(line))) or names.get((colour, not _dashed(line))) or (title if only else "")


def _dashed(line: Line2D) -> bool:
    return line.get_linestyle() not in ("-", "None")


def _curve(line: Line2D, name: str, spans: Sequence[tuple[str, dict[float, tuple[float, float]]]], upright: Sequence[Line2D]) -> Curve:
    x, y = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
    order = np.argsort(x, kind="stable")
    x, y, colour = x[order], y[order], to_hex(line.get_color())
    own = [span for hue, span in spans if hue == colour and not set(x.tolist()).isdisjoint(span)]
    edges = dict(own[0]) if own else {}
    bars = {
        float(np.asarray(bar.get_xdata())[0]): sorted(np.asarray(bar.get_ydata(), float).tolist())
        for bar in upright
        if to_hex(bar.get_color()) == colour
    }
    edges |= {at: (ends[0], ends[1]) for at, ends in bars.items() if not _dashed(line) and at in x.tolist()}
    low, high = ([(edges[at][k] if at in edges else None) for at in x.tolist()] for k in range(2))
    marked = line.get_linestyle() == "None" or len(x) == 1
    return Curve(name, colour, x.tolist(), _known(y), _some(low), _some(high), _dashed(line), marked, bool(bars) and not own)


def _marks(found: Any, names: dict[tuple[str, bool], str]) -> Curve | None:
    """Marks with an edge; dots without one are the seeds behind a mean."""
    if not len(found.get_linewidths()) or not float(found.get_linewidths()[0]) or not len(found.get_edgecolors()):
        return None
    at, colour = np.asarray(found.get_offsets(), dtype=float), to_hex(found.get_edgecolors()[0])
    if not len(at):
        return None
    at = at[np.argsort(at[:, 0], kind="stable")]
    return Curve(names.get((colour, False), "marks"), colour, at[:, 0].tolist(), _known(at[:, 1]), [], [], dots=True)


def _span(found: PolyCollection) -> tuple[str, dict[float, tuple[float, float]]]:
    """Colour of a band, and its edges by x: a polygon that runs along one edge and back along the other."""
    edges: dict[float, list[float]] = {}
    for path in found.get_paths():
        for x, y in np.asarray(path.vertices, dtype=float):
            edges.setdefault(float(x), []).append(float(y))
    return to_hex(np.asarray(found.get_facecolor())[0]), {x: (min(ys), max(ys)) for x, ys in edges.items()}


def _guide(line: Line2D) -> Guide:
    x, y = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
    level = len(set(y.tolist())) == 1
    at = float(y[0] if level else x[0])
    return Guide("y" if level else "x", at, at, _dashed(line))


def _axis(ax: Axes, which: str) -> Axis:
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = sorted(map(float, ax.get_xlim() if which == "x" else ax.get_ylim()))
    places = [float(tick) for tick in axis.get_ticklocs() if low <= float(tick) <= high]
    words = [axis.get_major_formatter()(place, k).replace("$\\mathdefault{", "").replace("}$", "") for k, place in enumerate(places)]
    return Axis(axis.get_label_text(), low, high, axis.get_scale() == "log", places, words)


def _known(values: np.ndarray) -> Numbers:
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in values]


def _some(values: Sequence[float | None]) -> Numbers:
    return [] if all(x is None for x in values) else [None if x is None else float(f"{x:.6g}") for x in values]
