"""The figures of a report about the probes: noise over (r, t), optima, proxies, as PNG bytes. Knows no files and no page."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from meanstep.program.pages.look import (
    AMBER,
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PINK,
    WHITE,
    drawing,
    key,
    log_ticks,
    png,
    sheet,
)
from meanstep.program.pages.statistics import across, mean, ratio
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points.report.comparisons import least
from meanstep.program.reproduce.points.report.results import BASE, Results, Seeds
from meanstep.program.reproduce.records import Record

ROLES = (("ema", "EMA"), ("own", "own"), ("posterior", "posterior"), ("oracle", "oracle"))
PREDICTED = (("norm", "scalar, |κ|", "o", "white"), ("signed", "scalar, signed", "v", "white"), ("matrix", "matrix", "D", BLUE))
MEASURED = (("error", "error", GREEN, "s"), ("trace", "Tr Cov", AMBER, "P"), ("sw1", "SW1", ORANGE, "*"))


def maps(results: Results) -> bytes | None:
    """Noise at beta 0 over (r, t), of the model and by the exact law, and the quietest coefficient; the first six sets."""
    found = {name: _merged([probe["map"] for probe in results.probes(name, BASE) if probe.get("map")]) for name in results.sets}
    names = [name for name in results.sets if found[name] is not None][:6]
    if not names:
        return None
    with drawing():
        figure, axes = sheet(3, len(names), 1.6, 1.65 * len(names) + 1.5)
        grid = np.array(axes, dtype=object).reshape(3, len(names))
        laws = {name: _merged([law] if (law := results.law(name)) else []) for name in names}
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
        return png(figure)


Merged = dict[str, np.ndarray] | None


def _merged(maps: list[Record]) -> Merged:
    """Noise at beta 0 and best coefficient of the mean of maps on the same edges."""
    maps = [m for m in maps if m["edges"] == maps[0]["edges"]]
    if not maps:
        return None
    sums = {k: _mean(np.array([[[np.nan if x is None else x for x in row] for row in m[k]] for m in maps], dtype=float)) for k in "abcs"}
    with np.errstate(divide="ignore", invalid="ignore"):
        noise, best = sums["a"] / sums["s"], np.clip(sums["b"] / sums["c"], 0, 1)
    return {"edges": np.array(maps[0]["edges"], dtype=float), "noise": noise, "best": np.where(sums["c"] > 0, best, np.nan)}


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
    ax.plot((0, 1), (0, 1), color=MUTED, lw=0.8)
    if found is None:
        ax.text(0.5, 0.5, "no closed form", ha="center", va="center", color=MUTED, fontsize=8)
        return None
    values = np.ma.masked_invalid(found[quantity])
    norm, colours = (LogNorm(1 / limit, limit), "RdBu_r") if quantity == "noise" else (Normalize(0, 1), "YlGnBu")
    drawn = ax.pcolormesh(found["edges"], found["edges"], values, norm=norm, cmap=colours)
    known = values.compressed()
    if quantity == "noise" and known.size and known.min() < 1 < known.max():
        centres = (found["edges"][1:] + found["edges"][:-1]) / 2
        ax.contour(centres, centres, values, levels=[1.0], colors=INK, linewidths=1)
    return drawn


def optimum(results: Results) -> bytes | None:
    """Predicted coefficients above measured best ones, a row for each set."""
    names = [
        name for name in results.sets if results.probe(name, BASE, "optimum", "matrix") or results.probe(name, BASE, "optimum", "norm")
    ]
    if not names:
        return None
    with drawing():
        figure, (ax,) = sheet(1, 1, 0.75 + 0.72 * len(names), 10.6)
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
        key(figure, [*entries, *((f"least {word}", colour, {"marker": m, **bare}) for _, word, colour, m in MEASURED)])
        return png(figure)


def best_sw1(results: Results, name: str) -> Seeds:
    """The trained coefficient of the paper's arm with the least SW1, by seed; none below three coefficients."""
    grid = results.paper_betas()
    scores = {beta: results.score(name, results.paper(beta)) for beta in grid}
    seeds = set.intersection(*(set(found) for found in scores.values())) if len(grid) > 2 else set()
    return {seed: min(grid, key=lambda beta: scores[beta][seed]) for seed in sorted(seeds)}


def _dot(ax: Axes, seeds: Seeds, row: float, marker: str, colour: str, fill: str) -> None:
    found = mean(seeds.values())
    if found is None:
        return
    ax.plot((min(seeds.values()), max(seeds.values())), (row, row), color=colour, lw=3, alpha=0.3)
    ax.plot(found.mean, row, marker, color=colour, mfc=fill, ms=9 if marker == "*" else 6, mew=1.3, zorder=4)


def proxies(results: Results) -> bytes | None:
    """Tr Cov at beta 1 by proxy and role, relative to beta 0, and the proxies' bias."""
    roles = [
        (f"{proxy}{tail}", f"{words}, {role}")
        for proxy, words in ROLES
        for tail, role in (("", "in the tangent"), ("-both", "in both roles"))
    ]
    changes = {role: {name: _proxy(results, name, role) for name in results.sets} for role, _ in roles}
    roles = [(role, words) for role, words in roles if any(change.n for change in changes[role].values())]
    if not roles:
        return None
    with drawing():
        figure, (left, right) = sheet(1, 2, 0.8 + 0.34 * len(roles), 10.0)
        for row, (role, _) in enumerate(roles):
            values = [change.value for change in changes[role].values() if change.n]
            _strip(left, values, row, GREEN if role.endswith("-both") else BLUE, across(changes[role].values()).interval)
        left.axvline(1, color=INK, lw=1)
        _rows(left, [words for _, words in roles], "Noise of the gradient at β = 1, over β = 0", "←  quieter")
        biases = [(p, w) for p, w in ROLES if any(any(results.probe(name, BASE, "bias", p).values()) for name in results.sets)]
        for row, (proxy, _) in enumerate(biases):
            found = [mean(results.probe(name, BASE, "bias", proxy).values()) for name in results.sets]
            _strip(right, [x.mean for x in found if x and x.mean > 0], row, PINK, None)
        right.set_visible(bool(biases))
        _rows(right, [words for _, words in biases], "Squared error of the proxy, over E|v'|²", "←  less error")
        return png(figure)


def _proxy(results: Results, name: str, role: str):
    return ratio(results.probe(name, BASE, "proxies", role), results.probed(name, BASE, "trace", 0))


def _strip(ax: Axes, values: list[float], row: int, colour: str, interval: tuple[float, float] | None) -> None:
    if not values:
        return
    middle = float(np.exp(np.mean(np.log(values))))
    if interval:
        ax.plot(interval, (row, row), color=colour, lw=5, alpha=0.25, solid_capstyle="butt")
    ax.scatter(values, [row] * len(values), s=14, color=colour, alpha=0.45, lw=0)
    ax.plot(middle, row, "D", color=colour, ms=7, zorder=4)
    ax.annotate(f"{middle:.2g}", (middle, row), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK, bbox=WHITE)


def _rows(ax: Axes, words: list[str], title: str, label: str) -> None:
    log_ticks(ax, pad=1.25)
    ax.set(yticks=range(len(words)), yticklabels=words, ylim=(len(words) - 0.4, -0.75), title=title)
    ax.set_xlabel(label)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")


DIAGNOSES: dict[str, Callable[[Results], bytes | None]] = {"maps": maps, "optimum": optimum, "proxies": proxies}
