"""The figures about distances: over training, by steps, against the constant 0. PNG bytes; knows no files, no page and no verdicts."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from meanstep.program.pages.look import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PINK,
    SKY,
    WHITE,
    beta_colour,
    drawing,
    end_labels,
    key,
    log_ticks,
    png,
    sheet,
)
from meanstep.program.pages.statistics import Change, mean
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT
from meanstep.program.reproduce.images.report.quantities import equal_compute, equal_steps
from meanstep.program.reproduce.images.report.results import Arm, Results, Seeds

CYCLE = (GREEN, PINK, SKY, AMBER, "#7c5cc4", "#7a5230", ORANGE, "#8a8f00", "#a3485c", INK, BLUE, "#e377c2", "#00a5a5")


def distance(results: Results) -> bytes | None:
    """One-step distance over samples seen: constants, and the other arms between the best and the worst constant."""
    constants = [arm for arm in results.arms if arm.family in (CONSTANT, ANCHORED) and results.seen(arm)]
    others = [arm for arm in results.others if results.seen(arm)]
    groups = [(group, title) for group, title in ((constants, "Constant coefficients"), (others, "Schedules and recipes")) if group]
    if not groups:
        return None
    with drawing():
        figure, axes = sheet(1, len(groups), 4.2, 11.0 if len(groups) > 1 else 6.5)
        for ax, (group, title) in zip(axes, groups, strict=True):
            lines = [(arm, _colour(arm, i), 1.9) for i, arm in enumerate(group)]
            if group is others:
                lines = [(arm, "#9aa5b1", 3.2) for arm in _ends(results)] + lines
            _over_samples(ax, results, lines, "ema", "1")
            ax.set(title=title, xlabel="samples seen", ylabel="distance of one-step samples (EMA weights)")
        if len(axes) > 1:
            low, high = (pick(edge) for pick, edge in zip((min, max), zip(*(ax.get_ylim() for ax in axes), strict=True), strict=True))
            for ax in axes:
                ax.set_ylim(low, high)
        for ax, (group, _) in zip(axes, groups, strict=True):
            log_ticks(ax, "y")
            _ends_named(ax, results, ([*_ends(results)] if group is others else []) + group, group is others)
        return png(figure)


def steps(results: Results) -> bytes | None:
    """Distance of the constants over samples seen, for both kinds of weights and all steps of the sampler."""
    lines = [(arm, _colour(arm, 0), 1.6) for arm in results.constants if results.seen(arm)]
    columns = len(results.steps)
    if not lines or not columns:
        return None
    with drawing():
        figure, axes = sheet(2, columns, 2.4, 11.0 if columns > 1 else 5.0)
        for i, ax in enumerate(axes):
            weights, n = ("ema", "raw")[i // columns], results.steps[i % columns]
            _over_samples(ax, results, lines, weights, n)
            ax.set_title(f"{'EMA' if weights == 'ema' else 'raw'} weights, {n} {'step' if n == '1' else 'steps'}")
            log_ticks(ax, "y")
        for ax in axes[columns:]:
            ax.set_xlabel("samples seen")
        key(figure, [(f"β = {arm.beta:g}", colour, {}) for arm, colour, _ in lines])
        return png(figure)


def forest(results: Results) -> bytes | None:
    """The ratio to the constant 0 of every other arm, at equal steps and at equal compute."""
    arms = [arm for arm in results.arms if arm is not results.base and equal_steps(results, arm, results.base).n]
    if not arms:
        return None
    with drawing():
        figure, (ax,) = sheet(1, 1, 1.0 + 0.34 * len(arms), 9.0)
        for row, arm in enumerate(arms):
            _mark(ax, equal_steps(results, arm, results.base), row - 0.14, BLUE, "o")
            _mark(ax, equal_compute(results, arm, results.base), row + 0.16, ORANGE, "s")
        ax.axvline(1, color=INK, lw=1)
        ax.set(xscale="log", ylim=(len(arms) - 0.4, -0.7), yticks=range(len(arms)), yticklabels=[arm.name for arm in arms])
        ax.set_xlabel("←  better than β = 0        distance over that at β = 0        worse  →")
        ax.grid(True, axis="x")
        ax.grid(False, axis="y")
        log_ticks(ax, pad=1.06)
        key(figure, [("after the same samples", BLUE, {"marker": "o"}), ("after the same compute", ORANGE, {"marker": "s"})])
        return png(figure)


def _mark(ax: Axes, change: Change, y: float, colour: str, marker: str) -> None:
    if not change.n:
        return
    if change.interval:
        ax.plot(change.interval, (y, y), color=colour, lw=2.2, alpha=0.45)
    ax.plot(change.value, y, marker, color=colour, ms=5, zorder=4)
    top = max(change.interval or (change.value,))
    note = f"{change.value:.3f}"
    ax.annotate(note, (top, y), (6, 0), textcoords="offset points", va="center", fontsize=7.5, color=colour, zorder=6, bbox=WHITE)


def _over_samples(ax: Axes, results: Results, lines: Sequence[tuple[Arm, str, float]], weights: str, n: str) -> None:
    """Means and 95% intervals up to the end; a dashed line for arms with the anchor; the floor."""
    for arm, colour, width in lines:
        seen = [x for x in results.seen(arm) if results.end and x <= results.end]
        style: Any = (0, (4, 2)) if arm.family == ANCHORED else "-"
        series(ax, [(x, results.distance(arm, x, weights, n)) for x in seen], colour, style, width)
    ax.set_yscale("log")
    if results.floor and (results.floor > 0.5 * ax.get_ylim()[0]):
        ax.axhline(results.floor, color=MUTED, lw=1, ls=":")
    ax.xaxis.set_major_formatter(lambda x, _: short(x))
    ax.locator_params(axis="x", nbins=4)


def series(ax: Axes, pairs: Sequence[tuple[float, Seeds]], colour: str, style: Any = "-", width: float = 1.8) -> None:
    """Means over seeds with their 95% intervals, which end at a twentieth of the mean where they would go below."""
    found = [(x, m) for x, seeds in pairs if (m := mean(seeds.values()))]
    ax.plot([x for x, _ in found], [m.mean for _, m in found], color=colour, ls=style, lw=width, marker="o", ms=3)
    band(ax, [(x, max(m.low, 0.05 * abs(m.mean)), m.high) for x, m in found if m.low is not None and m.high is not None], colour)


def band(ax: Axes, edges: Sequence[tuple[float, float, float]], colour: str) -> None:
    """Shading between (x, low, high)."""
    ax.fill_between([x for x, _, _ in edges], [y for _, y, _ in edges], [y for _, _, y in edges], color=colour, alpha=0.1, lw=0)


def short(x: float) -> str:
    """A number of samples, such as 250k."""
    return f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}"


def _ends(results: Results) -> list[Arm]:
    """The constants with the least and the largest distance at the end."""
    found = {arm.name: m.mean for arm in results.constants if (m := mean(results.distance(arm, results.end).values()))}
    ordered = sorted((arm for arm in results.constants if arm.name in found), key=lambda arm: found[arm.name])
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def _ends_named(ax: Axes, results: Results, arms: Sequence[Arm], others: bool) -> None:
    labels = []
    plain = [arm for arm in arms if not (others and arm.family == CONSTANT)]
    for arm in arms:
        if m := mean(results.distance(arm, results.end).values()):
            colour = _colour(arm, plain.index(arm)) if arm in plain else MUTED
            labels.append((m.mean, arm.name, colour))
    end_labels(ax, labels, gap=0.045)


def _colour(arm: Arm, index: int) -> str:
    return beta_colour(arm.beta) if arm.family in (CONSTANT, ANCHORED) and arm.beta is not None else CYCLE[index % len(CYCLE)]


FIGURES: dict[str, Callable[[Results], bytes | None]] = {"distance": distance, "forest": forest, "steps": steps}
