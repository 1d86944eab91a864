"""The figures of a diagnosis, in the look of the sweep's report. Knows no page and no rules."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from meanstep import probes
from meanstep.probes.rows import EDGES
from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.measures import maps as gridded
from meanstep.program.diagnose.tables import part
from meanstep.program.pages.look import BLUE, GREEN, INK, MUTED, ORANGE, PINK, WHITE, key, log_ticks, sheet

FINE = torch.linspace(0, 1, 41, dtype=torch.float64)
FEWEST = 5
"""Rows below which a bin stays empty; two do for the maps of a probe that had time for few."""


def edges(d: Diagnosis) -> Tensor:
    """Eight bins on each axis, or four if rows are few."""
    return EDGES if d.found.rows >= 1500 else EDGES[::2]


def maps(d: Diagnosis) -> Figure | None:
    """Noise at beta 0 and 1, the quietest beta, and the change of u over (r, t)."""
    if d.case.method.still:
        return None
    at = edges(d)
    grids = gridded(d.found, at)
    seen = grids["counts"] >= (FEWEST if d.found.rows >= 200 else 2)
    ratio = LogNorm(1 / 8, 8)
    panels = (
        ("noise_0", "Noise at β = 0", "over E|v'|²", ratio, "RdBu_r"),
        ("noise_1", "Noise at β = 1", "over E|v'|²", ratio, "RdBu_r"),
        ("best", "Quietest β", "", Normalize(0, 1), "YlGnBu"),
        ("change", "Change of u", "|(t - r) du/dt| / |u|", LogNorm(1 / 8, 8), "PuOr_r"),
    )
    figure, axes = sheet(1, 4, 3.45)
    for ax, (name, title, unit, norm, colours) in zip(axes, panels, strict=True):
        grid = torch.where(seen, grids[name], torch.nan)
        drawn = _map(ax, at, grid, norm, colours)
        ax.set(title=title, xlabel="r", ylabel="t" if ax is axes[0] else "")
        ticks = [0, 0.5, 1] if name == "best" else [1 / 8, 1 / 2, 1, 2, 8]
        bar = figure.colorbar(drawn, ax=ax, orientation="horizontal", fraction=0.06, pad=0.02, ticks=ticks, extend="neither")
        bar.ax.set_xticklabels([f"{tick:g}" for tick in ticks] if name == "best" else ["⅛", "½", "1", "2", "8"], fontsize=8)
        bar.ax.minorticks_off()
        bar.set_label(unit or "β", fontsize=8)
    return figure


def _map(ax: Axes, at: Tensor, grid: Tensor, norm: Normalize, colours: str):
    values = np.ma.masked_invalid(grid.numpy())
    drawn = ax.pcolormesh(at.numpy(), at.numpy(), values, norm=norm, cmap=colours)
    flat = not isinstance(norm, LogNorm)
    middle = ((at[1:] + at[:-1]) / 2).tolist()
    for i, t in enumerate(middle):
        for j, r in enumerate(middle):
            if not np.ma.getmaskarray(values)[i, j]:
                dark = float(norm(values[i, j])) > 0.6 if flat else abs(float(norm(values[i, j])) - 0.5) > 0.32
                ax.text(r, t, _short(values[i, j]), ha="center", va="center", fontsize=6, color="white" if dark else INK)
    ax.plot((0, 1), (0, 1), color=MUTED, lw=0.8)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.grid(False)
    return drawn


def _short(x: float) -> str:
    return f"{x:.0f}" if x >= 9.5 else f"{x:.1f}"


def curve(d: Diagnosis) -> Figure | None:
    """M(beta) with its band and minimum, and the paired difference from beta = 0."""
    table = d.found.tables.get("train")
    if table is None or "best" not in d.values:
        return None
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)
    noise = probes.curve(table, grid).noise
    low, high = noise.interval()
    best = d.values["best"]
    figure, (left, right) = sheet(1, 2, 2.7, 10.0)
    left.fill_between(grid, low, high, color=BLUE, alpha=0.18, lw=0)
    left.plot(grid, noise.value, color=BLUE, label="noise")
    at = float(noise.value.min())
    left.plot((best.low, best.high), (at, at), color=ORANGE, lw=5, alpha=0.4, solid_capstyle="butt", label="where it is least, 95%")
    left.plot(best.value, at, "o", color=ORANGE, ms=7, label="least")
    side = "right" if best.value > 0.6 else "left"
    left.annotate(f"least at β = {best}", (best.value, at), (0, 9), textcoords="offset points", color=ORANGE, fontsize=8, ha=side)
    left.axhline(1, color=MUTED, lw=0.8, ls=(0, (3, 3)))
    top = float(torch.nan_to_num(high, nan=0).max())
    left.set(title="Noise over β, M(β) / E|v'|²", xlabel="β", ylim=(0, 1.12 * max(top, 1.05)), xlim=(-0.02, 1.02))
    _paired(right, table, grid)
    return figure


def _paired(ax: Axes, table: probes.Table, grid: Tensor) -> None:
    found = [probes.difference(table, beta, 0.0) for beta in grid.tolist()]
    value = torch.stack([e.value for e in found])
    low, high = (torch.nan_to_num(torch.stack([e.interval()[k] for e in found]), nan=0.0) for k in range(2))
    ax.fill_between(grid, low, high, color=GREEN, alpha=0.18, lw=0)
    ax.plot(grid, value, color=GREEN)
    ax.axhline(0, color=INK, lw=1)
    ax.set(title="Change from β = 0, the same rows", xlabel="β", xlim=(-0.02, 1.02))


def jacobian(d: Diagnosis) -> Figure | None:
    """The histogram of |J g| / |g| over rows, and the signed kappa by t with the spread of its rows."""
    table = d.found.tables.get("jacobian")
    if table is None or "expanding" not in d.values:
        return None
    size = table.columns["square"].clamp(min=0).sqrt()
    figure, (left, right) = sheet(1, 2, 2.7, 10.0)
    top = max(2.0, float(size.quantile(0.995)))
    left.hist(size.clamp(max=top).numpy(), bins=50, range=(0, top), color=BLUE, alpha=0.75)
    left.axvline(1, color=INK, lw=1)
    share = d.values["expanding"]
    left.text(0.98, 0.95, f"{share:v%} of the rows expand  →", transform=left.transAxes, ha="right", va="top", fontsize=8, color=INK)
    left.set(
        title="|J g| / |g|, rows",
        xlabel="1: as at r = t" + ("; the last bar holds all above" if bool((size > top).any()) else ""),
        xlim=(0, top),
    )
    _kappa(right, table)
    return figure


def _kappa(ax: Axes, table: probes.Table) -> None:
    middles, quantiles = [], []
    for low, high in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True):
        rows = part(table, (table.t > low) & (table.t <= high)).columns["kappa"]
        if len(rows) >= FEWEST:
            middles.append((low + high) / 2)
            quantiles.append(rows.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)).tolist())
    lines = np.array(quantiles).T if quantiles else np.zeros((5, 0))
    ax.fill_between(middles, lines[0], lines[4], color=PINK, alpha=0.15, lw=0)
    ax.fill_between(middles, lines[1], lines[3], color=PINK, alpha=0.25, lw=0)
    ax.plot(middles, lines[2], color=PINK, marker="o", ms=4)
    ax.axhline(-1, color=INK, lw=1)
    ax.axhline(0, color=MUTED, lw=0.8, ls=(0, (3, 3)))
    ax.set(title="Signed κ by t: median, half and nine tenths of the rows", xlabel="t", xlim=(0, 1))


def roles(d: Diagnosis) -> Figure | None:
    """Mean square of tangent noise, target noise and the mean residual by gap; the share of the noise that the loudest rows carry."""
    table = d.found.tables.get("moving")
    if table is None or len(table.t) < FEWEST:
        return None
    figure, (left, right) = sheet(1, 2, 2.7, 10.0)
    gap = table.t - table.r
    for name, colour in (("tangent", ORANGE), ("target", BLUE), ("mean", GREEN)):
        x, y = [], []
        for low, high in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True):
            rows = part(table, (gap > low) & (gap <= high)).columns[name]
            if len(rows) >= FEWEST:
                x.append((low + high) / 2)
                y.append(float(rows.mean()))
        left.plot(x, y, color=colour, marker="o", ms=4)
    left.set(title="Squared residual by gap t - r, a row", xlabel="t - r", xlim=(0, 1), ylim=(0, None))
    key(figure, [("noise through the tangent", ORANGE, {}), ("noise of the target", BLUE, {}), ("residual without noise", GREEN, {})])
    _tail(right, d)
    return figure


def _tail(ax: Axes, d: Diagnosis) -> None:
    """How much of the noise the loudest rows carry, at beta 0 and 1."""
    table = d.found.tables.get("train", d.found.tables["map"]).columns
    for line, (beta, colour) in enumerate(((0.0, BLUE), (1.0, MUTED))):
        error = table["a"] - 2 * beta * table["b"] + beta**2 * table["c"]
        held = error.sort(descending=True).values.cumsum(0) / error.sum()
        share = torch.arange(1, len(held) + 1) / len(held)
        ax.plot(share, held, color=colour, label=f"β = {beta:g}")
        k = max(0, round(0.01 * len(held)) - 1)
        ax.plot(share[k], held[k], "o", color=colour, ms=5, label=f"top 1 percent, β = {beta:g}")
        words = f"β = {beta:g}: {100 * float(held[k]):.2g}% in the top 1 percent"
        ax.text(0.02, 0.93 - 0.1 * line, words, transform=ax.transAxes, color=colour, fontsize=8, bbox=WHITE)
    ax.set(title="Noise that the loudest rows carry", xlabel="share of the rows; dots: the top 1 percent", xscale="log", ylim=(0, 1.03))
    log_ticks(ax)
    ax.set(xlim=(1 / max(len(table["a"]), 2), 1))


def instants(d: Diagnosis) -> Figure | None:
    """On r = t rows, by t: the target's noise, what the residual is without it, and the share of the two that is left to learn."""
    table = d.found.tables.get("still")
    if table is None or len(table.t) < FEWEST or d.case.center.kind == "own":  # beside itself a network has no error
        return None
    x, y = [], []
    for low, high in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True):
        rows = part(table, (table.t > low) & (table.t <= high)).columns
        if len(rows["target"]) >= FEWEST:
            x.append((low + high) / 2)
            y.append([float(rows[name].mean()) for name in ("target", "mean")])
    noise, error = np.array(y).T if y else np.zeros((2, 0))
    figure, (left, right) = sheet(1, 2, 2.7, 10.0)
    for values, colour in ((noise, BLUE), (error, GREEN)):
        left.plot(x, values, color=colour, marker="o", ms=4)
    left.set(title="Squared residual of r = t rows by t, a row", xlabel="t", xlim=(0, 1), ylim=(0, None))
    right.plot(x, error / (noise + error), color=GREEN, marker="o", ms=4, label="share that is not noise")
    right.set(title="Share of it that is not noise", xlabel="t", xlim=(0, 1), ylim=(0, None))
    key(figure, [("noise of the target", BLUE, {}), ("residual without noise", GREEN, {})])
    return figure


def weight(d: Diagnosis) -> Figure | None:
    """The raw residual's histogram and what the weight makes of it: the share of the weight at no error."""
    table = d.found.tables.get("pull")
    if table is None or "saturated" not in d.values:
        return None
    error, ratio = table.columns["error"].clamp(min=1e-12), (table.columns["slope"] / table.columns["zero"]).clamp(0, 1)
    low, high = (float(error.quantile(q)) for q in (0.001, 0.999))
    figure, (left, right) = sheet(1, 2, 2.7, 10.0)
    left.hist(error.numpy(), bins=list(np.geomspace(low, max(high, 1.01 * low), 50)), color=BLUE, alpha=0.75)
    left.set(title="Raw mean squared residual, rows", xlabel="the number to watch", xscale="log")
    right.plot(error, ratio, ".", color=PINK, ms=2, alpha=0.5)
    right.axhline(0.1, color=INK, lw=1)
    words = f"saturated: {d.values['saturated']:v%} of the rows below"
    right.text(0.02, 0.1, words, transform=right.get_yaxis_transform(), va="bottom", fontsize=8)
    right.set(title="Weight of a row over that at no error", xlabel="raw mean squared residual", ylim=(-0.03, 1.05))
    right.set(xscale="log", xlim=(low, max(high, 1.01 * low)))
    for ax in (left, right):
        log_ticks(ax)
    return figure


FIGURES: dict[str, Callable[[Diagnosis], Figure | None]] = {
    "maps": maps,
    "curve": curve,
    "jacobian": jacobian,
    "roles": roles,
    "instants": instants,
    "weight": weight,
}
