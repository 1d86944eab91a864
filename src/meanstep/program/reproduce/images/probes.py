"""The figures about the training signal: M(beta), its optimum against the distance's, the loss over t, the proxy's bias."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from meanstep.program.pages import look
from meanstep.program.pages.look import BLUE, GREEN, INK, ORANGE
from meanstep.program.pages.statistics import ratio
from meanstep.program.reproduce.images import quantities as q
from meanstep.program.reproduce.images.results import BIAS_NORMS, CENTER_WORDS, CENTERS, WEIGHTS, Results
from meanstep.program.reproduce.report.drawn import band, over_samples, series

AGES = LinearSegmentedColormap.from_list("ages", ["#c9d6e3", "#0b62a4"])
LOW = 1e-12


def error(results: Results) -> Figure | None:
    """M(beta) on the weights of the constant 0 at every moment, its minimum marked, for each velocity taken for the true one."""
    curves = {c: {m: found for m in results.until if (found := _errors(results, c, m))} for c in CENTERS}
    centers = [c for c in CENTERS if curves[c]]
    if not centers:
        return None
    figure, axes = look.sheet(1, len(centers), 3.6, 5.5 * len(centers))
    for ax, center in zip(axes, centers, strict=True):
        labels = []
        for seen, found in curves[center].items():
            colour, best = AGES(results.until.index(seen) / max(len(results.until) - 1, 1)), min(found, key=lambda beta: found[beta])
            ax.plot([*found], [*found.values()], color=colour, lw=1.8, label=look.short(seen))
            ax.plot(best, found[best], "o", color=colour, mec=INK, ms=6, zorder=5, label=f"least, {look.short(seen)}")
            labels.append(([*found.values()][-1], look.short(seen), look.MUTED))
        ax.set(title=f"M(β) {CENTER_WORDS[center]}", xlabel="β", ylabel="error of the signal over E|v'|²", yscale="log")
        look.log_ticks(ax, "y")
        look.end_labels(ax, labels if len(labels) < 3 else [labels[0], labels[-1]], gap=0.07)
    return figure


def _errors(results: Results, center: str, seen: int) -> dict[float, float]:
    """Geometric means over seeds of M by coefficient, none for one coefficient."""
    every = ((beta, q.error(results, beta, center, seen)) for beta in q.grid(results, "error", center, "betas"))
    found = {beta: change.value for beta, value in every if (change := ratio(value, dict.fromkeys(value, 1.0))).n and change.value > LOW}
    return found if len(found) > 1 else {}


def optima(results: Results) -> Figure | None:
    """The coefficient of least error and that of least distance over training, for each number of steps."""
    moments = results.until
    best = {(n, w): [(m, q.distance_optimal(results, m, w, n)) for m in moments] for n in results.steps for w in WEIGHTS}
    panels = [n for n in results.steps if any(found for w in WEIGHTS for _, found in best[n, w])]
    errors = {c: [(m, q.error_optimal(results, results.base, m, c)) for m in moments] for c in CENTERS}
    if not panels or not any(found for pairs in errors.values() for _, found in pairs):
        return None
    styles: dict[str, Any] = {"data": "-", "ema": (0, (2, 1.6))}
    figure, axes = look.sheet(1, len(panels), 3.1, 11.0 if len(panels) > 1 else 5.0)
    for ax, n in zip(axes, panels, strict=True):
        for center, pairs in errors.items():
            series(ax, pairs, ORANGE, styles[center])
        for weights, colour in zip(WEIGHTS, (BLUE, GREEN), strict=True):
            series(ax, best[n, weights], colour)
        over_samples(ax, 4, title=f"{n} {'step' if n == '1' else 'steps'}", ylim=(-0.05, 1.05), xlabel="samples seen")
    axes[0].set_ylabel("best β")
    words: list[tuple[str, str, dict]] = [(f"least error {CENTER_WORDS[c]}", ORANGE, {"ls": styles[c]}) for c in CENTERS]
    look.key(figure, [*words, ("least distance, EMA weights", BLUE, {}), ("raw weights", GREEN, {})])
    return figure


def variance(results: Results) -> Figure | None:
    """Variance of the loss over t with both tangents on the weights of the constant 0, and their ratio at one t over training."""
    styles = {"conditional": ("conditional tangent", ORANGE), "ema": ("EMA tangent", BLUE)}
    every = {name: [(t, q.variances(results, results.end, name, t)) for t in q.grid(results, "loss", "t")] for name in styles}
    drawn = {name: [(t, seeds) for t, seeds in points if seeds] for name, points in every.items()}
    if not any(drawn.values()):
        return None
    figure, (left, right) = look.sheet(1, 2, 3.3)
    for name, points in drawn.items():
        series(left, points, styles[name][1])
    left.set(yscale="log", title="Variance of the loss, at the end", xlabel="t  (1: noise)", ylabel="variance over rows")
    changes = [(m, c) for m in results.until if (c := q.tangents_ratio(results, m)).n]
    right.plot([m for m, _ in changes], [c.value for _, c in changes], color=INK, marker="o", ms=3)
    band(right, [(m, *c.interval) for m, c in changes if c.interval], INK)
    right.axhline(1, color=look.MUTED, lw=1)
    right.set_visible(bool(changes))
    title = f"Conditional over EMA at t = {q.LEVEL_T:g}"
    over_samples(right, title=title, xlabel="samples seen", ylabel="ratio of variances", yscale="log")
    for ax in (left, right):
        look.log_ticks(ax, "y", pad=1.1)
    look.end_labels(left, [(float(np.mean([*points[-1][1].values()])), *styles[name]) for name, points in drawn.items() if points])
    return figure


def bias(results: Results) -> Figure | None:
    """Squared error of the EMA copy over training, of the constants; a panel for each kind."""
    every = {
        kind: {arm: [(m, q.bias(results, arm, m, kind)) for m in results.until] for arm in results.constants} for kind in q.kinds(results)
    }
    found = {kind: {arm: pairs for arm, pairs in lines.items() if any(seeds for _, seeds in pairs)} for kind, lines in every.items()}
    found = {kind: lines for kind, lines in found.items() if lines}
    if not found:
        return None
    figure, axes = look.sheet(1, len(found), 3.2, 6.5 if len(found) == 1 else 11.0)
    for ax, (kind, lines) in zip(axes, found.items(), strict=True):
        for arm, pairs in lines.items():
            series(ax, pairs, look.beta_colour(arm.beta or 0.0))
        label = BIAS_NORMS.get(kind, "squared error, relative")
        over_samples(ax, title=kind.capitalize(), yscale="log", xlabel="samples seen", ylabel=label)
        look.log_ticks(ax, "y", pad=1.1)
    drawn = [arm for arm in results.constants if any(arm in lines for lines in found.values())]
    look.key(figure, [(f"β = {arm.beta:g}", look.beta_colour(arm.beta or 0.0), {}) for arm in drawn])
    return figure


FIGURES: dict[str, Callable[[Results], Figure | None]] = {"variance": variance, "error": error, "optima": optima, "bias": bias}
