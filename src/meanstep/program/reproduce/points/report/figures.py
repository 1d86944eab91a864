"""The figures of a report about quality and variance, as PNG bytes. Knows no files, no page and no claims' verdicts."""

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meanstep.program.pages.look import (
    ARM_COLOURS,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    WHITE,
    beta_colour,
    drawing,
    end_labels,
    key,
    log_ticks,
    panels,
    png,
    sheet,
)
from meanstep.program.pages.statistics import Change, across, ratio
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points.report import pictures
from meanstep.program.reproduce.points.report.claims import SW1_OF_PAPER, TRACE_RANGE
from meanstep.program.reproduce.points.report.comparisons import sw1_ratio, trace_ratio
from meanstep.program.reproduce.points.report.results import ANCHORED, BASE, BOTH, PLANE, Line, Results, Seeds
from meanstep.program.reproduce.points.settings import SINGLE

BETAS: dict[str, Any] = {"xticks": [0, 0.25, 0.5, 0.75, 1], "xticklabels": ["0", "¼", "½", "¾", "1"]}
LONG = ("flow_matching", "alpha_flow", "improved_meanflow", "terminal_velocity", "split_meanflow", "solution_flow", "shortcut")
SHORT = dict(zip(LONG, ("FM", "α-Flow", "iMF", "TVM", "SplitMF", "SoFlow", "Shortcut"), strict=True))


def overview(results: Results) -> bytes | None:
    """The headline in one figure: variance and SW1 of beta 1 against beta 0, set by set."""
    names = [name for name in results.sets if trace_ratio(results, name).n or sw1_ratio(results, name, ANCHORED).n]
    if not names:
        return None
    trace = {name: trace_ratio(results, name) for name in names}
    sw1 = {name: sw1_ratio(results, name, ANCHORED) for name in names}
    with drawing():
        figure, (left, right) = sheet(1, 2, 1.15 + 0.36 * (len(names) + 1), 10.0)
        _ratios(left, trace, GREEN, "Noise of the gradient, β = 0 over β = 1", "times quieter at β = 1  →")
        if set(names) & set(PLANE):
            left.axvspan(*TRACE_RANGE, color=GREEN, alpha=0.09, lw=0, zorder=0)
            left.text(TRACE_RANGE[0] * 1.02, -0.75, "the paper's range", color=GREEN, fontsize=8, va="center")
        paper = [(after / before, row) for row, name in enumerate(names) if name in SW1_OF_PAPER for before, after in [SW1_OF_PAPER[name]]]
        if paper:
            x, y = zip(*paper, strict=True)
            right.scatter(x, y, s=46, facecolors="white", edgecolors=ORANGE, linewidths=1.5, zorder=3)
            right.text(0.012, 0.985, "○ the paper's number", color=ORANGE, fontsize=8, transform=right.transAxes, va="top", bbox=WHITE)
        both = {name: sw1_ratio(results, name, BOTH) for name in names}
        if any(change.n for change in both.values()):
            _below(right, [*both.values(), across(both.values())])
            right.text(
                0.36, 0.985, "■ a posterior proxy in both roles", color=GREEN, fontsize=8, transform=right.transAxes, va="top", bbox=WHITE
            )
        _ratios(right, sw1, BLUE, "Distance of the samples (SW1), β = 1 over β = 0", "←  better at β = 1        worse  →")
        right.tick_params(labelleft=False)
        return png(figure)


def _below(ax: Axes, changes: Sequence[Change]) -> None:
    """A second comparison, a little below the first of each row."""
    for row, change in enumerate(changes):
        if change.n:
            ax.plot(change.interval or (change.value,) * 2, (row + 0.3,) * 2, color=GREEN, lw=1.6, alpha=0.45)
            ax.plot(change.value, row + 0.3, "s", color=GREEN, ms=4, zorder=4)


def _ratios(ax: Axes, changes: dict[str, Change], colour: str, title: str, label: str) -> None:
    rows = [(shown(name), change, 5.5) for name, change in changes.items()]
    rows += [("all sets", found, 8)] if (found := across(changes.values())).n > 1 else []
    for row, (_, change, size) in enumerate(rows):
        if not change.n:
            continue
        if change.interval:
            ax.plot(change.interval, (row, row), color=colour, lw=2.4 if row < len(changes) else 4, alpha=0.45)
        ax.plot(change.value, row, "o" if row < len(changes) else "D", color=colour, ms=size, zorder=4)
        top = max(change.interval or (change.value,))
        ax.annotate(
            f"{change.value:.2f}", (top, row), (7, 0), textcoords="offset points", va="center", fontsize=8, color=INK, zorder=6, bbox=WHITE
        )
    ax.axvline(1, color=INK, lw=1)
    if len(rows) > len(changes):
        ax.axhline(len(changes) - 0.5, color="#c5ced8", lw=0.8)
    ax.set(xscale="log", ylim=(len(rows) - 0.4, -1.1), yticks=range(len(rows)), yticklabels=[row[0] for row in rows], title=title)
    ax.set_xlabel(label)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")
    log_ticks(ax, pad=1.12)


def quality(results: Results) -> bytes | None:
    """SW1 over the coefficient, set by set: arms with paired intervals, raw weights, references, the floor."""
    names = [name for name in results.sets if any(results.score(name, line.id) for line in results.lines)]
    if not names:
        return None
    arms = [arm for arm, lines in results.swept().items() if any(results.score(name, line.id) for name in names for line in lines)]
    with drawing():
        figure, axes = panels(len(names))
        for ax, name in zip(axes, names, strict=False):
            _quality_of(ax, results, name, arms)
        entries = [(_arm(arm), _colour(arm), {"marker": "o", "ms": 4}) for arm in arms]
        first = [(f"{_arm(arms[0])}, raw weights", _colour(arms[0]), {"ls": (0, (2, 1.6)), "lw": 1.2, "alpha": 0.8})] if arms else []
        floors = [("fresh data against data", "#8b97a5", {"lw": 6, "alpha": 0.4})] if any(results.floor(name) for name in names) else []
        key(figure, [*entries, *first, *floors])
        return png(figure)


def _quality_of(ax: Axes, results: Results, name: str, arms: Sequence[str]) -> None:
    floor = results.floor(name)
    if floor:
        ax.axhspan(min(floor), max(floor) if len(floor) > 1 else 1.03 * floor[0], color="#8b97a5", alpha=0.3, lw=0)
    tops = [_arm_of(ax, results, name, arm, 0.022 * arms.index(arm)) for arm in reversed(arms)]
    _references(ax, results, name, max([*tops, *floor, 1e-9]))
    ax.set(title=shown(name), xlabel="β", **BETAS)


def _references(ax: Axes, results: Results, name: str, top: float) -> None:
    """Ticks and names at the right margin; what lies far above the arms is named with its number. Sets the limits."""
    kinds = [(line.id, SHORT.get(line.id, line.id), "1") for line in results.singles()]
    kinds += [(id, f"{words}, 64 steps", "64") for id, words, _ in kinds if id in SINGLE and SINGLE[id].still]
    found = [(float(np.mean([*s.values()])), words) for id, words, steps in kinds if (s := results.score(name, id, steps=steps))]
    top = 1.12 * max([top, *(y for y, _ in found if y < 1.7 * top)]) if results.swept() else 1.12 * max([top, *(y for y, _ in found)])
    ax.set(xlim=(-0.06, 1.1), ylim=(0, top))
    for y, _ in found:
        if y <= top:
            ax.plot((1.06, 1.1), (y, y), color=MUTED, lw=1.6, solid_capstyle="butt", clip_on=False)
    labels = [(y, words + (f" {y:.2g} ↑" if y > top else "")) for y, words in found]
    end_labels(ax, [(min(y, top), words, MUTED) for y, words in labels], gap=0.08, size=7.5)


def _arm_of(ax: Axes, results: Results, name: str, arm: str, aside: float) -> float:
    """Draw an arm: means and, of the first (`aside` is 0), seeds and paired intervals from its first coefficient. Returns the top."""
    lines = [line for line in results.swept()[arm] if results.score(name, line.id)]
    if not lines:
        return 0.0
    colour, main = _colour(arm), aside == 0
    x = [(line.beta or 0.0) + aside for line in lines]
    means = [_geometric(results.score(name, line.id)) for line in lines]
    ax.plot(x, means, color=colour, marker="o", ms=4.5 if main else 3.5, lw=2.2 if main else 1.3, zorder=4 if main else 3)
    return max([*means, *(_spread_of(ax, results, name, lines, colour) if main else ())])


def _spread_of(ax: Axes, results: Results, name: str, lines: Sequence[Line], colour: str) -> list[float]:
    """Seeds, paired intervals and raw weights of an arm; the heights of the last."""
    base, raw = results.score(name, lines[0].id), {}
    for line in lines:
        scores, at = results.score(name, line.id), line.beta or 0.0
        ax.scatter([at] * len(scores), list(scores.values()), s=7, color=colour, alpha=0.4, lw=0, zorder=3)
        change = ratio(scores, base)
        if line is not lines[0] and change.interval:
            common = _geometric({seed: base[seed] for seed in base.keys() & scores.keys()})
            ax.plot((at, at), [common * edge for edge in change.interval], color=colour, lw=5, alpha=0.22, zorder=2, solid_capstyle="butt")
        if found := results.score(name, line.id, weights="raw"):
            raw[at] = _geometric(found)
    ax.plot([*raw], [*raw.values()], color=colour, lw=1.2, ls=(0, (2, 1.6)), alpha=0.8)
    return [*raw.values()]


def _geometric(values: Seeds) -> float:
    logs = [log(x) for x in values.values() if x > 0]
    return exp(float(np.mean(logs))) if logs else 0.0


def _arm(arm: str) -> str:
    return "the paper's arm" if arm == "paper" else arm


def _colour(arm: str) -> str:
    return ARM_COLOURS.get(arm, ORANGE)


def variance(results: Results) -> bytes | None:
    """Tr Cov of the gradient over the coefficient, relative to coefficient 0 on the same weights."""
    names = [name for name in results.sets if len(results.probe_betas(name, BASE)) > 1 and results.probed(name, BASE, "trace", 0)]
    if not names:
        return None
    kinds = (("trace", "whole", BLUE, 2.2), ("noise", "noise part", GREEN, 1.5), ("weighted", "weighted", ORANGE, 1.5))
    with drawing():
        figure, axes = panels(len(names), 2.5)
        for ax, name in zip(axes, names, strict=False):
            for quantity, _, colour, width in kinds:
                _relative(ax, results, name, quantity, colour, width)
            _own(ax, results, name)
            ax.axhline(1, color=INK, lw=0.8)
            ax.set(title=shown(name), xlim=(-0.05, 1.05), xlabel="β", **BETAS)
            log_ticks(ax, "y")
        words = {"whole": "Tr Cov, trained at β = 0", "noise part": "its noise part", "weighted": "under the adaptive weight"}
        own_key = ("at the weights trained with each β", INK, {"marker": "D", "ms": 5, "mfc": "white", "ls": "none"})
        key(figure, [*((words[word], colour, {"lw": width}) for _, word, colour, width in kinds), own_key])
        return png(figure)


def _own(ax: Axes, results: Results, name: str) -> None:
    own = {beta: results.probed(name, results.paper(beta), "trace", beta) for beta in results.paper_betas()}
    changes = {beta: ratio(found, own.get(0.0, {})) for beta, found in own.items()}
    found = {beta: change.value for beta, change in changes.items() if change.n}
    ax.scatter([*found], [*found.values()], s=34, marker="D", facecolors="white", edgecolors=INK, linewidths=1, zorder=5)


def _relative(ax: Axes, results: Results, name: str, quantity: str, colour: str, width: float) -> None:
    base = results.probed(name, BASE, "weighted" if quantity == "weighted" else "trace", 0)
    grid = [beta for beta in results.probe_betas(name, BASE) if ratio(results.probed(name, BASE, quantity, beta), base).n]
    changes = [ratio(results.probed(name, BASE, quantity, beta), base) for beta in grid]
    if not grid:
        return
    ax.plot(grid, [change.value for change in changes], color=colour, lw=width, marker="o", ms=3)
    known = [(beta, *change.interval) for beta, change in zip(grid, changes, strict=True) if change.interval]
    if known:
        x, low, high = zip(*known, strict=True)
        ax.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)


def training(results: Results) -> bytes | None:
    """Raw residual and SW1 over training for the paper's models, the first six sets."""
    betas = results.paper_betas()
    names = [name for name in results.sets if any(results.curves(name, results.paper(beta), "sw1") for beta in betas)][:6]
    if not names:
        return None
    chosen = betas if len(betas) <= 3 else [betas[0], betas[len(betas) // 2], betas[-1]]
    with drawing():
        figure, axes = sheet(2, len(names), 2.3, max(5.0, 1.85 * len(names)))
        for column, name in enumerate(names):
            for row, quantity in enumerate(("sw1", "residual")):
                _training_of(axes[row * len(names) + column], results, name, quantity, chosen)
            axes[column].set_title(shown(name))
            axes[len(names) + column].set_xlabel("steps")
        axes[0].set_ylabel("SW1, one step")
        axes[len(names)].set_ylabel("raw residual")
        figure.align_ylabels()
        key(figure, [(f"β = {beta:g}", beta_colour(beta), {}) for beta in chosen])
        return png(figure)


def _training_of(ax: Axes, results: Results, name: str, quantity: str, betas: Sequence[float]) -> None:
    for beta in betas:
        found = results.curves(name, results.paper(beta), quantity)
        if found is None:
            continue
        steps, values = found
        known = np.isfinite(values).any(axis=0) & (np.where(np.isfinite(values), values, 1) > 0).all(axis=0)
        if not known.any():
            continue
        x, y = np.array(steps)[known], values[:, known]
        ax.plot(x, np.exp(np.nanmean(np.log(y), axis=0)), color=beta_colour(beta), lw=1.6)
        ax.fill_between(x, np.nanmin(y, axis=0), np.nanmax(y, axis=0), color=beta_colour(beta), alpha=0.15, lw=0)
    ax.set_yscale("log")
    log_ticks(ax, "y")
    ax.set_xlim(left=0)
    ax.locator_params(axis="x", nbins=3)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")


def montage(results: Results) -> bytes | None:
    """Data and samples of the paper's models at three coefficients, a column for each of the first six sets."""
    names = [name for name in results.sets if "data" in results.samples.get(name, {})][:6]
    betas = [beta for beta in results.paper_betas() if any(results.paper(beta) in results.samples[name] for name in names)]
    if not names:
        return None
    chosen = betas if len(betas) <= 3 else [betas[0], betas[len(betas) // 2], betas[-1]]
    rows = [("data", "data"), *((results.paper(beta), f"β = {beta:g}") for beta in chosen)]
    with drawing():
        figure, axes = sheet(len(rows), len(names), 1.85, 1.8 * len(names) + 0.3)
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
        for column, name in enumerate(names):
            window = pictures.frame(results.samples[name]["data"])
            for row, (id, label) in enumerate(rows):
                _picture(axes[row * len(names) + column], results.samples[name].get(id), window, label if column == 0 else "")
            axes[column].set_title(shown(name), loc="center")
        return png(figure)


def _picture(ax: Axes, points: np.ndarray | None, window: pictures.Frame, label: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, color="#d4dae1")
    ax.set_ylabel(label, color=INK, fontsize=10)
    if points is not None:
        ax.imshow(pictures.PALETTE[pictures.picture(points, window)], interpolation="bilinear")


FIGURES: dict[str, Callable[[Results], bytes | None]] = {
    "overview": overview,
    "samples": montage,
    "quality": quality,
    "variance": variance,
    "training": training,
}
