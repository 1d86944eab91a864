"""The figures of a sweep about the probes: noise over (r, t), optima, proxies. Knows no files and no page."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from meanstep.program.pages import look
from meanstep.program.pages.look import AMBER, BLUE, GREEN, GRID, INK, ORANGE, PINK
from meanstep.program.pages.statistics import across, mean, ratio
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points.quantities import best_sw1, least
from meanstep.program.reproduce.points.results import BASE, Results
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.report.drawn import ratios
from meanstep.program.reproduce.report.results import Seeds

ROLES = (("ema", "EMA"), ("own", "own"), ("posterior", "posterior"), ("oracle", "oracle"))
PREDICTED = (("norm", "scalar, |κ|", "o", "white"), ("signed", "scalar, signed", "v", "white"), ("matrix", "matrix", "D", BLUE))
MEASURED = (("error", "error", GREEN, "s"), ("trace", "Tr Cov", AMBER, "P"), ("sw1", "SW1", ORANGE, "*"))
Merged = dict[str, np.ndarray] | None


def maps(results: Results) -> Figure | None:
    """Noise at beta 0 over (r, t), of the model and by the exact law, and the quietest coefficient; the first six sets."""
    found = {name: _merged([probe["map"] for probe in results.probes(name, BASE) if probe.get("map")]) for name in results.sets}
    names = [name for name in results.sets if found[name] is not None][:6]
    if not names:
        return None
    figure, axes = look.sheet(3, len(names), 1.6, 1.65 * len(names) + 1.5)
    grid = np.array(axes, dtype=object).reshape(3, len(names))
    laws = {name: _merged([law] if (law := results.of_set(name).get("law")) else []) for name in names}
    limit = max(_limit([found[name] for name in names] + [laws[name] for name in names]), 1.5)
    for column, name in enumerate(names):
        noise = _map(grid[0, column], found[name], "noise", limit)
        _map(grid[1, column], laws[name], "noise", limit)
        best = _map(grid[2, column], found[name], "best", limit)
        grid[0, column].set_title(shown(name), loc="center")
        grid[2, column].set_xlabel("r")
        for row in range(3):
            grid[row, column].tick_params(labelleft=column == 0, labelbottom=row == 2)
    for row, words in enumerate(("model, β = 0", "exact law, β = 0", "model's quietest β")):
        grid[row, 0].set_ylabel(f"{words}\n\nt", color=INK)
    bar = figure.colorbar(noise, ax=list(grid[:2, -1]), shrink=0.8, aspect=24, label="noise / noise at β = 1")
    bar.minorticks_off()
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if 1 / limit <= x <= limit]
    bar.set_ticks(ticks, labels=[f"{x:g}" for x in ticks])
    figure.colorbar(best, ax=grid[2, -1], shrink=0.8, aspect=12, label="β", ticks=[0, 0.5, 1])
    return figure


def _merged(maps: list[Record]) -> Merged:
    """Noise at beta 0 and best coefficient of the mean of maps on the same edges."""
    maps = [m for m in maps if m["edges"] == maps[0]["edges"]]
    if not maps:
        return None
    a, b, c, s = (_mean(np.array([[[np.nan if x is None else x for x in row] for row in m[k]] for m in maps], dtype=float)) for k in "abcs")
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(c > 0, np.clip(b / c, 0, 1), np.nan)
        return {"edges": np.array(maps[0]["edges"], dtype=float), "noise": a / s, "best": best}


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _limit(found: list[Merged]) -> float:
    logs = [np.abs(np.log(m["noise"][np.isfinite(m["noise"]) & (m["noise"] > 0)])) for m in found if m is not None]
    values = np.concatenate(logs) if logs else np.zeros(0)
    return float(np.exp(np.quantile(values, 0.97))) if values.size else 1.0


def _map(ax: Axes, found: Merged, quantity: str, limit: float):
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], facecolor="white")
    ax.grid(False)
    ax.plot((0, 1), (0, 1), color=look.MUTED, lw=0.8)
    if found is None:
        ax.text(0.5, 0.5, "no closed form", ha="center", va="center", color=look.MUTED, fontsize=8)
        return None
    edges, values = found["edges"], np.ma.masked_invalid(found[quantity])
    norm, colours = (LogNorm(1 / limit, limit), "RdBu_r") if quantity == "noise" else (Normalize(0, 1), "YlGnBu")
    drawn = ax.pcolormesh(edges, edges, values, norm=norm, cmap=colours)
    known = values.compressed()
    if quantity == "noise" and known.size and known.min() < 1 < known.max():
        centres = (edges[1:] + edges[:-1]) / 2
        ax.contour(centres, centres, values, levels=[1.0], colors=INK, linewidths=1)
    return drawn


def optimum(results: Results) -> Figure | None:
    """Predicted coefficients above measured best ones, a row for each set."""
    names = [name for name in results.sets if any(results.probe(name, BASE, "optimum", rule) for rule in ("matrix", "norm"))]
    if not names:
        return None
    figure, (ax,) = look.sheet(1, 1, 0.75 + 0.72 * len(names), 10.6)
    for row, name in enumerate(names):
        ax.axhspan(row - 0.4, row + 0.4, color=GRID, alpha=0.45, lw=0)
        for lane, (rule, _, marker, fill) in zip((-0.32, -0.2, -0.08), PREDICTED, strict=True):
            _dot(ax, results.probe(name, BASE, "optimum", rule), row + lane, marker, BLUE, fill)
        for lane, (quantity, _, colour, marker) in zip((0.08, 0.2, 0.32), MEASURED, strict=True):
            seeds = best_sw1(results, name) if quantity == "sw1" else least(results, name, quantity)
            _dot(ax, seeds, row + lane, marker, colour, colour)
    ax.set(ylim=(len(names) - 0.45, -0.55), xlim=(-0.04, 1.04), yticks=range(len(names)), yticklabels=[shown(n) for n in names])
    ax.set_xlabel("β")
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    bare = {"ls": "none", "ms": 7}
    entries = [(f"predicted: {word}", BLUE, {"marker": m, "mfc": fill, **bare}) for _, word, m, fill in PREDICTED]
    look.key(figure, [*entries, *((f"least {word}", colour, {"marker": m, **bare}) for _, word, colour, m in MEASURED)])
    return figure


def _dot(ax: Axes, seeds: Seeds, row: float, marker: str, colour: str, fill: str) -> None:
    if found := mean(seeds.values()):
        ax.plot((min(seeds.values()), max(seeds.values())), (row, row), color=colour, lw=3, alpha=0.3)
        ax.plot(found.mean, row, marker, color=colour, mfc=fill, ms=9 if marker == "*" else 6, mew=1.3, zorder=4)


def proxies(results: Results) -> Figure | None:
    """Tr Cov at beta 1 by proxy and role, relative to beta 0, and the proxies' bias."""
    tails = {"": "in the tangent", "-both": "in both roles"}
    words = {f"{proxy}{tail}": f"{word}, {role}" for proxy, word in ROLES for tail, role in tails.items()}
    base = {name: results.probed(name, BASE, "trace", 0) for name in results.sets}
    changes = {role: [ratio(results.probe(name, BASE, "proxies", role), base[name]) for name in results.sets] for role in words}
    changes = {role: found for role, found in changes.items() if any(change.n for change in found)}
    if not changes:
        return None
    figure, (left, right) = look.sheet(1, 2, 0.8 + 0.34 * len(changes), 10.0)
    for row, (role, found) in enumerate(changes.items()):
        colour = GREEN if role.endswith("-both") else BLUE
        _strip(left, [change.value for change in found if change.n], row, colour, across(found).interval)
    left_rows = [words[role] for role in changes]
    ratios(left, left_rows, "←  quieter", 1.25, ylim=(len(left_rows) - 0.4, -0.75), title="Noise of the gradient at β = 1, over β = 0")
    biases = [(p, w) for p, w in ROLES if any(any(results.probe(name, BASE, "bias", p).values()) for name in results.sets)]
    for row, (proxy, _) in enumerate(biases):
        means = [mean(results.probe(name, BASE, "bias", proxy).values()) for name in results.sets]
        _strip(right, [x.mean for x in means if x and x.mean > 0], row, PINK)
    right.set_visible(bool(biases))
    right_rows = [word for _, word in biases]
    title = "Squared error of the proxy, over E|v'|²"
    ratios(right, right_rows, "←  less error", 1.25, None, ylim=(len(right_rows) - 0.4, -0.75), title=title)
    return figure


def _strip(ax: Axes, values: Sequence[float], row: int, colour: str, interval: tuple[float, float] | None = None) -> None:
    if not values:
        return
    middle = float(np.exp(np.mean(np.log(values))))
    if interval:
        ax.plot(interval, (row, row), color=colour, lw=5, alpha=0.25, solid_capstyle="butt")
    ax.scatter(values, [row] * len(values), s=14, color=colour, alpha=0.45, lw=0)
    ax.plot(middle, row, "D", color=colour, ms=7, zorder=4)
    style: Any = {"ha": "center", "fontsize": 8, "color": INK, "bbox": look.WHITE}
    ax.annotate(f"{middle:.2g}", (middle, row), (0, 7), textcoords="offset points", **style)


FIGURES: dict[str, Callable[[Results], Figure | None]] = {"maps": maps, "optimum": optimum, "proxies": proxies}
