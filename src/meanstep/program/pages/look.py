"""How figures look: one rc, one palette, panels, keys, labels at line ends, PNG bytes. Knows nothing of what is drawn.

Object interface of matplotlib only: no pyplot, and `rc_context` puts the settings back.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

INK, MUTED, GRID, BAND = "#1f2933", "#68737f", "#e3e8ee", "#e9edf2"
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0b62a4", "#d55e00", "#00875a", "#b8558f", "#56b4e9", "#c98a00"
ARM_COLOURS = {"paper": BLUE, "plain": ORANGE, "anchored": AMBER, "posterior-both": GREEN, "posterior": "#4d9e82", "own": PINK}
CYCLE = (GREEN, PINK, SKY, AMBER, "#7c5cc4", "#7a5230", ORANGE, "#8a8f00", "#a3485c", INK, BLUE, "#e377c2", "#00a5a5")
"""Colours of what has none of its own, in this order."""
RAMP = LinearSegmentedColormap.from_list("beta", ["#173f7a", "#7467a8", "#c8708a", "#e89030"])
"""Colour of a coefficient: 0 dark blue, 1 orange; it gets lighter all the way."""
SCALE, WIDTH = 2, 11.0
WHITE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
"""Behind a number that may lie on a line."""
RC: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style; matplotlib's settings are as before afterwards."""
    with matplotlib.rc_context(RC):
        yield


def sheet(rows: float, columns: int = 1, height: float = 2.5, width: float = WIDTH, *, n: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, the first `n` of them in use."""
    figure = Figure(figsize=(width, height * rows + 0.35), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.09, wspace=0.02, hspace=0.03)  # type: ignore[union-attr, call-arg]
    axes = list(figure.subplots(int(rows), columns, squeeze=False).flat)
    for ax in axes[n:] if n is not None else []:
        ax.set_visible(False)
    return figure, axes


def panels(n: int, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """One panel for each of `n` sets, three in a row, fewer and narrower if there are fewer."""
    columns = min(3, n)
    return sheet(ceil(n / columns), columns, height, WIDTH * (0.8, 0.85, 1.0)[columns - 1], n=n)


def key(figure: Figure, entries: Sequence[tuple[str, str, dict]]) -> None:
    """Words in the colour of their lines above the panels: (text, colour, further settings of the line)."""
    handles = [Line2D([], [], color=colour, label=text, **settings) for text, colour, settings in entries]
    colours = [colour for _, colour, _ in entries]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), labelcolor=colours, fontsize=9, handlelength=1.9)


def end_labels(ax: Axes, labels: Sequence[tuple[float, str, str]], *, gap: float = 0.085, x: float = 1.02, size: float = 8) -> None:
    """Words right of the panel at the heights of their lines, (y, text, colour), moved apart where they would overlap."""
    ax.figure.canvas.draw_idle()
    to_axes = (ax.transData + ax.transAxes.inverted()).transform
    ordered = sorted(labels)
    heights = [float(np.clip(to_axes((0, y))[1], 0.0, 1.0)) for y, _, _ in ordered]
    for (_, text, colour), y in zip(ordered, spread(heights, gap), strict=True):
        ax.text(x, y, text, color=colour, transform=ax.transAxes, va="center", ha="left", fontsize=size, clip_on=False)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending positions at least `gap` apart, each group of crowded ones centred where it was."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) < _low(groups[-2], gap) + gap * len(groups[-2]):
            crowd = groups.pop()
            groups[-1] += crowd
    return [_low(group, gap) + gap * i for group in groups for i in range(len(group))]


def _low(group: Sequence[float], gap: float) -> float:
    return float(np.mean(group)) - gap * (len(group) - 1) / 2


def log_ticks(ax: Axes, axis: str = "x", *, pad: float = 1.0) -> None:
    """Plain numbers on a logarithmic axis, as many as its range needs; the range is widened by `pad` on both sides."""
    (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
    low, high = (ax.get_xlim if axis == "x" else ax.get_ylim)()
    low, high = low / pad, high * pad
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 80 else (1,)
    decades = [m * 10.0**e for e in range(-12, 12) for m in steps]
    ticks = [float(x) for x in (MaxNLocator(4).tick_values(low, high) if high / low < 2.5 else decades) if low <= x <= high]
    ticks = ticks[:: max(1, len(ticks) // 7)]
    change = {f"{axis}lim": (low, high), f"{axis}ticks": ticks, f"{axis}ticklabels": [f"{tick:g}" for tick in ticks]}
    ax.set(**change)
    (ax.xaxis if axis == "x" else ax.yaxis).set_minor_locator(NullLocator())


def short(value: float) -> str:
    """A number of samples in a few characters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def beta_colour(beta: float) -> str:
    """The colour of a coefficient in every figure."""
    return to_hex(RAMP(beta))


def png(figure: Figure) -> bytes:
    """PNG at twice the size it is shown at, with 256 colours: a third of the bytes, no difference to the eye."""
    from PIL import Image

    held, small = io.BytesIO(), io.BytesIO()
    figure.savefig(held, dpi=100 * SCALE, format="png", pil_kwargs={"compress_level": 1})
    image = Image.open(held).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()
