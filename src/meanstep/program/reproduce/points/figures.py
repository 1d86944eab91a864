"""The figures of a sweep about quality and variance. Knows no files, no page and no claims' verdicts."""

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from meanstep.program.pages import look
from meanstep.program.pages.statistics import Change, across, ratio
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points import pictures
from meanstep.program.reproduce.points.claims import SW1_OF_PAPER, TRACE_RANGE
from meanstep.program.reproduce.points.quantities import sw1_ratio, trace_ratio
from meanstep.program.reproduce.points.results import ANCHORED, BASE, BOTH, PLANE, Results
from meanstep.program.reproduce.points.settings import SINGLE
from meanstep.program.reproduce.report.drawn import band, mark, ratios
from meanstep.program.reproduce.report.results import Seeds
from meanstep.program.reproduce.study import Line

BETAS: dict[str, Any] = {"xticks": [0, 0.25, 0.5, 0.75, 1], "xticklabels": ["0", "¼", "½", "¾", "1"], "xlabel": "β"}
LONG = ("flow_matching", "alpha_flow", "improved_meanflow", "terminal_velocity", "split_meanflow", "solution_flow", "shortcut")
SHORT = dict(zip(LONG, ("FM", "α-Flow", "iMF", "TVM", "SplitMF", "SoFlow", "Shortcut"), strict=True))
FLOOR, DOTS = "#8b97a5", (0, (2, 1.6))


def overview(results: Results) -> Figure | None:
    """The headline in one figure: variance and SW1 of beta 1 against beta 0, set by set."""
    trace = {name: trace_ratio(results, name) for name in results.sets}
    one = results.paper(1.0)
    sw1 = {name: sw1_ratio(results, name, one) for name in results.sets}
    names = [name for name in results.sets if trace[name].n or sw1[name].n]
    if not names:
        return None
    figure, (left, right) = look.sheet(1, 2, 1.15 + 0.36 * (len(names) + 1), 10.0)
    entries: list[tuple[str, str, dict]] = [
        (f"β = 1{' (on the right with the anchor)' if one == ANCHORED else ''}", look.BLUE, {"marker": "o", "ms": 5.5, "lw": 2.4})
    ]
    both = [sw1_ratio(results, name, BOTH) for name in names]
    if any(change.n for change in both):
        for row, change in enumerate([*both, across(both)]):
            mark(right, change, row + 0.3, look.GREEN, "s", 4, 1.6)
        entries.append(("posterior velocity in both roles", look.GREEN, {"marker": "s", "ms": 4, "lw": 1.6}))
    if paper := [(SW1_OF_PAPER[name][1] / SW1_OF_PAPER[name][0], row) for row, name in enumerate(names) if name in SW1_OF_PAPER]:
        x, y = zip(*paper, strict=True)
        right.scatter(x, y, s=46, facecolors="white", edgecolors=look.ORANGE, linewidths=1.5, zorder=3)
        entries.append(("the paper's numbers", look.ORANGE, {"marker": "o", "ms": 6.5, "mfc": "white", "mew": 1.5, "lw": 0}))
    if set(names) & set(PLANE):
        left.axvspan(*TRACE_RANGE, color=look.ORANGE, alpha=0.09, lw=0, zorder=0)
        left.text(TRACE_RANGE[0] * 1.02, -0.75, "the paper's range", color=look.ORANGE, fontsize=8, va="center")
    _ratios(left, names, trace, look.BLUE, "Noise of the gradient, β = 0 over β = 1", "times quieter at β = 1  →")
    title, label = "Distance of the samples (SW1), over β = 0", "←  nearer than at β = 0        farther  →"
    _ratios(right, names, sw1, look.BLUE, title, label)
    look.key(figure, entries)
    right.tick_params(labelleft=False)
    return figure


def _ratios(ax: Axes, names: Sequence[str], changes: dict[str, Change], colour: str, title: str, label: str) -> None:
    rows = [*map(shown, names)]
    for row, name in enumerate(names):
        mark(ax, changes[name], row, colour, size=5.5, width=2.4, words=".2f")
    if (found := across(changes[name] for name in names)).n > 1:
        mark(ax, found, len(rows), colour, "D", 8, 4, words=".2f")
        ax.axhline(len(rows) - 0.5, color="#c5ced8", lw=0.8)
        rows.append("all sets")
    ratios(ax, rows, label, 1.12, ylim=(len(rows) - 0.4, -1.1), title=title)


def quality(results: Results) -> Figure | None:
    """SW1 over the coefficient, set by set: arms with paired intervals, raw weights, references, the floor."""
    names = [name for name in results.sets if any(results.score(name, line.id) for line in results.lines)]
    if not names:
        return None
    arms = [arm for arm, lines in results.swept().items() if any(results.score(name, line.id) for name in names for line in lines)]
    figure, axes = look.panels(len(names))
    colours = _colours(arms)
    for ax, name in zip(axes, names, strict=False):
        _quality_of(ax, results, name, colours)
    entries: list[tuple[str, str, dict]] = [(named(arm), colours[arm], {"marker": "o", "ms": 4}) for arm in arms]
    entries += [(_raw(arm), colours[arm], {"ls": DOTS, "lw": 1.2, "alpha": 0.8}) for arm in arms[:1]]
    floors = any(results.floor(name) for name in names)
    look.key(figure, [*entries, *([("fresh data against data", FLOOR, {"lw": 6, "alpha": 0.4})] if floors else [])])
    return figure


def named(arm: str) -> str:
    """An arm in words."""
    return "the paper's arm" if arm == "paper" else arm


def _raw(arm: str) -> str:
    return f"{named(arm)}, raw weights"


def _colours(arms: Sequence[str]) -> dict[str, str]:
    """Of each arm its own, of others those that are nobody's."""
    free = [colour for colour in look.CYCLE if colour not in look.ARM_COLOURS.values()]
    others = [arm for arm in arms if arm not in look.ARM_COLOURS]
    found = look.ARM_COLOURS | {arm: free[k % len(free)] for k, arm in enumerate(others)}
    return {arm: found[arm] for arm in arms}


def _quality_of(ax: Axes, results: Results, name: str, colours: dict[str, str]) -> None:
    if floor := results.floor(name):
        ax.axhspan(min(floor), max(floor) if len(floor) > 1 else 1.03 * floor[0], color=FLOOR, alpha=0.3, lw=0)
    order = list(enumerate(colours.items()))
    tops = [_arm_of(ax, results, name, arm, colour, 0.022 * k) for k, (arm, colour) in reversed(order)]
    _references(ax, results, name, max([*tops, *floor, 1e-9]))
    ax.set(title=shown(name), **BETAS)


def _references(ax: Axes, results: Results, name: str, top: float) -> None:
    """Ticks and names at the right margin; what lies far above the arms is named with its number. Sets the limits."""
    kinds = [(line.id, SHORT.get(line.id, line.id), "1") for line in results.singles()]
    kinds += [(id, f"{words}, 64 steps", "64") for id, words, _ in kinds if id in SINGLE and SINGLE[id].still]
    found = [(float(np.mean([*s.values()])), words) for id, words, steps in kinds if (s := results.score(name, id, steps=steps))]
    top = 1.12 * max([top, *(y for y, _ in found if y < 1.7 * top or not results.swept())])
    ax.set(xlim=(-0.06, 1.1), ylim=(0, top))
    for y, _ in found:
        if y <= top:
            ax.plot((1.06, 1.1), (y, y), color=look.MUTED, lw=1.6, solid_capstyle="butt", clip_on=False)
    labels = [(min(y, top), words + (f" {y:.2g} ↑" if y > top else ""), look.MUTED) for y, words in found]
    look.end_labels(ax, labels, gap=0.08, size=7.5)


def _arm_of(ax: Axes, results: Results, name: str, arm: str, colour: str, aside: float) -> float:
    """Draw an arm: means and, of the first (`aside` is 0), seeds and paired intervals from its first coefficient. Returns the top.

    Others are drawn so far aside; the x of their points stays the coefficient.
    """
    lines = [line for line in results.swept()[arm] if results.score(name, line.id)]
    if not lines:
        return 0.0
    x, means = [line.beta or 0.0 for line in lines], [_geometric(results.score(name, line.id)) for line in lines]
    if aside:
        moved = Affine2D().translate(aside, 0) + ax.transData
        ax.plot(x, means, color=colour, marker="o", ms=3.5, lw=1.3, zorder=3, label=named(arm), transform=moved)
        return max(means)
    ax.plot(x, means, color=colour, marker="o", ms=4.5, lw=2.2, zorder=4, label=named(arm))
    return max([*means, *_spread_of(ax, results, name, lines, colour)])


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
    ax.plot([*raw], [*raw.values()], color=colour, lw=1.2, ls=DOTS, alpha=0.8, label=_raw(lines[0].arm))
    return [*raw.values()]


def _geometric(values: Seeds) -> float:
    logs = [log(x) for x in values.values() if x > 0]
    return exp(float(np.mean(logs))) if logs else 0.0


def variance(results: Results) -> Figure | None:
    """Tr Cov of the gradient over the coefficient, relative to coefficient 0 on the same weights."""
    names = [name for name in results.sets if len(results.probe_betas(name, BASE)) > 1 and results.probed(name, BASE, "trace", 0)]
    if not names:
        return None
    kinds = {"trace": ("Tr Cov, trained at β = 0", look.BLUE, 2.2), "noise": ("its noise part", look.GREEN, 1.5)}
    kinds["weighted"] = ("under the adaptive weight", look.ORANGE, 1.5)
    figure, axes = look.panels(len(names), 2.5)
    for ax, name in zip(axes, names, strict=False):
        for quantity, (_, colour, width) in kinds.items():
            _relative(ax, results, name, quantity, colour, width)
        own = {beta: results.probed(name, results.paper(beta), "trace", beta) for beta in results.paper_betas()}
        found = {beta: change.value for beta, seeds in own.items() if (change := ratio(seeds, own.get(0.0, {}))).n}
        ax.scatter([*found], [*found.values()], s=34, marker="D", facecolors="white", edgecolors=look.INK, linewidths=1, zorder=5)
        ax.axhline(1, color=look.INK, lw=0.8)
        ax.set(title=shown(name), xlim=(-0.05, 1.05), **BETAS)
        look.log_ticks(ax, "y")
    trained = ("at the weights trained with each β", look.INK, {"marker": "D", "ms": 5, "mfc": "white", "ls": "none"})
    look.key(figure, [*((words, colour, {"lw": width}) for words, colour, width in kinds.values()), trained])
    return figure


def _relative(ax: Axes, results: Results, name: str, quantity: str, colour: str, width: float) -> None:
    base = results.probed(name, BASE, "weighted" if quantity == "weighted" else "trace", 0)
    every = {beta: ratio(results.probed(name, BASE, quantity, beta), base) for beta in results.probe_betas(name, BASE)}
    changes = {beta: change for beta, change in every.items() if change.n}
    if changes:
        ax.plot([*changes], [change.value for change in changes.values()], color=colour, lw=width, marker="o", ms=3)
    band(ax, [(beta, *change.interval) for beta, change in changes.items() if change.interval], colour, 0.13)


def chosen(betas: Sequence[float]) -> Sequence[float]:
    """Three coefficients at most: the ends and one between them."""
    return betas if len(betas) <= 3 else [betas[0], betas[len(betas) // 2], betas[-1]]


def training(results: Results) -> Figure | None:
    """Raw residual and SW1 over training for the paper's models, the first six sets."""
    every = results.paper_betas()
    names = [name for name in results.sets if any(results.curves(name, results.paper(beta), "sw1") for beta in every)][:6]
    if not names:
        return None
    figure, axes = look.sheet(2, len(names), 2.3, max(5.0, 1.85 * len(names)))
    for column, name in enumerate(names):
        for row, quantity in enumerate(("sw1", "residual")):
            _training_of(axes[row * len(names) + column], results, name, quantity, chosen(every))
        axes[column].set_title(shown(name))
        axes[len(names) + column].set_xlabel("steps")
    axes[0].set_ylabel("SW1, one step")
    axes[len(names)].set_ylabel("raw residual")
    figure.align_ylabels()
    look.key(figure, [(f"β = {beta:g}", look.beta_colour(beta), {}) for beta in chosen(every)])
    return figure


def _training_of(ax: Axes, results: Results, name: str, quantity: str, betas: Sequence[float]) -> None:
    for beta in betas:
        steps, values = results.curves(name, results.paper(beta), quantity) or ([], np.zeros((1, 0)))
        known = np.isfinite(values).any(axis=0) & (np.where(np.isfinite(values), values, 1) > 0).all(axis=0)
        if known.any():
            x, y, colour = np.array(steps)[known], values[:, known], look.beta_colour(beta)
            ax.plot(x, np.exp(np.nanmean(np.log(y), axis=0)), color=colour, lw=1.6)
            ax.fill_between(x, np.nanmin(y, axis=0), np.nanmax(y, axis=0), color=colour, alpha=0.15, lw=0)
    ax.set_yscale("log")
    look.log_ticks(ax, "y")
    ax.set_xlim(left=0)
    ax.locator_params(axis="x", nbins=3)
    ax.xaxis.set_major_formatter(lambda x, _: look.short(x))


def montage(results: Results) -> Figure | None:
    """Data and samples of the paper's models at three coefficients, a column for each of the first six sets."""
    names = [name for name in results.sets if "data" in results.samples.get(name, {})][:6]
    betas = [beta for beta in results.paper_betas() if any(results.paper(beta) in results.samples[name] for name in names)]
    if not names:
        return None
    rows = [("data", "data"), *((results.paper(beta), f"β = {beta:g}") for beta in chosen(betas))]
    figure, axes = look.sheet(len(rows), len(names), 1.85, 1.8 * len(names) + 0.3)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    for column, name in enumerate(names):
        window = pictures.frame(results.samples[name]["data"])
        for row, (id, label) in enumerate(rows):
            ax, points = axes[row * len(names) + column], results.samples[name].get(id)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set(visible=True, color="#d4dae1")
            ax.set_ylabel(label if column == 0 else "", color=look.INK, fontsize=10)
            if points is not None:
                ax.imshow(pictures.PALETTE[pictures.picture(points, window)], interpolation="bilinear")
        axes[column].set_title(shown(name), loc="center")
    return figure


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "overview": overview,
    "samples": montage,
    "quality": quality,
    "variance": variance,
    "training": training,
}
