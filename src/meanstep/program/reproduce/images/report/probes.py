"""The figures about the training signal as PNG bytes: M(beta), its optimum against the distance's, the loss over t, the proxy's bias."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from meanstep.program.pages.look import BLUE, GREEN, INK, MUTED, ORANGE, beta_colour, drawing, end_labels, key, log_ticks, png, sheet
from meanstep.program.pages.statistics import ratio
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.figures import band, series, short
from meanstep.program.reproduce.images.report.results import BIAS_NORMS, CENTER_WORDS, CENTERS, Results, Seeds

AGES = LinearSegmentedColormap.from_list("ages", ["#c9d6e3", "#0b62a4"])
LOW = 1e-12


def error(results: Results) -> bytes | None:
    """M(beta) on the weights of the constant 0 at every moment, its minimum marked, for each velocity taken for the true one."""
    moments = _moments(results)
    curves = {c: {m: found for m in moments if (found := _errors(results, c, m))} for c in CENTERS}
    centers = [c for c in CENTERS if curves[c]]
    if not centers:
        return None
    with drawing():
        figure, axes = sheet(1, len(centers), 3.6, 5.5 * len(centers))
        for ax, center in zip(axes, centers, strict=True):
            labels = []
            for seen, (betas, values) in curves[center].items():
                colour = AGES(moments.index(seen) / max(len(moments) - 1, 1))
                ax.plot(betas, values, color=colour, lw=1.8)
                k = int(np.argmin(values))
                ax.plot(betas[k], values[k], "o", color=colour, mec=INK, ms=6, zorder=5)
                labels.append((values[-1], short(seen), MUTED))
            ax.set(title=f"M(β) {CENTER_WORDS[center]}", xlabel="β", ylabel="error of the signal over E|v'|²", yscale="log")
            log_ticks(ax, "y")
            end_labels(ax, labels if len(labels) < 3 else [labels[0], labels[-1]], gap=0.07)
        return png(figure)


def optima(results: Results) -> bytes | None:
    """The coefficient of least error and that of least distance over training, for each number of steps."""
    moments = _moments(results)
    panels = [n for n in results.steps if any(q.distance_optimal(results, m, w, n) for m in moments for w in ("ema", "raw"))]
    errors = {c: [(m, q.error_optimal(results, results.base, m, c)) for m in moments] for c in CENTERS}
    if not panels or not any(found for pairs in errors.values() for _, found in pairs):
        return None
    styles: dict[str, Any] = {"data": "-", "ema": (0, (2, 1.6))}
    with drawing():
        figure, axes = sheet(1, len(panels), 3.1, 11.0 if len(panels) > 1 else 5.0)
        for ax, n in zip(axes, panels, strict=True):
            for center, pairs in errors.items():
                series(ax, pairs, ORANGE, styles[center])
            for weights, colour in (("ema", BLUE), ("raw", GREEN)):
                series(ax, [(m, q.distance_optimal(results, m, weights, n)) for m in moments], colour)
            ax.set(title=f"{n} {'step' if n == '1' else 'steps'}", ylim=(-0.05, 1.05), xlabel="samples seen")
            ax.xaxis.set_major_formatter(lambda x, _: short(x))
            ax.locator_params(axis="x", nbins=4)
        axes[0].set_ylabel("best β")
        words = [(f"least error {CENTER_WORDS[c]}", ORANGE, {"ls": styles[c]}) for c in CENTERS]
        key(figure, [*words, ("least distance, EMA weights", BLUE, {}), ("raw weights", GREEN, {})])
        return png(figure)


def variance(results: Results) -> bytes | None:
    """Variance of the loss over t with both tangents on the weights of the constant 0, and their ratio at one t over training."""
    drawn = {name: _losses(results, name) for name in ("conditional", "ema")}
    if not any(drawn.values()):
        return None
    with drawing():
        figure, (left, right) = sheet(1, 2, 3.3)
        for points, colour in zip(drawn.values(), (ORANGE, BLUE), strict=True):
            series(left, points, colour)
        left.set(yscale="log", title="Variance of the loss, at the end", xlabel="t  (1: noise)", ylabel="variance over rows")
        changes = [(m, c) for m in _moments(results) if (c := q.tangents_ratio(results, m)).n]
        right.plot([m for m, _ in changes], [c.value for _, c in changes], color=INK, marker="o", ms=3)
        band(right, [(m, *c.interval) for m, c in changes if c.interval], INK)
        right.axhline(1, color=MUTED, lw=1)
        right.set_visible(bool(changes))
        right.set(title=f"Conditional over EMA at t = {q.LEVEL_T:g}", xlabel="samples seen", ylabel="ratio of variances", yscale="log")
        right.xaxis.set_major_formatter(lambda x, _: short(x))
        for ax in (left, right):
            log_ticks(ax, "y", pad=1.1)
        ends = {name: float(np.mean([*points[-1][1].values()])) for name, points in drawn.items() if points}
        words = {"conditional": ("conditional tangent", ORANGE), "ema": ("EMA tangent", BLUE)}
        end_labels(left, [(y, *words[name]) for name, y in ends.items()])
        return png(figure)


def bias(results: Results) -> bytes | None:
    """Squared error of the EMA copy over training, of the constants; a panel for each kind."""
    moments, found = _moments(results), {}
    for kind in q.kinds(results):
        lines = {arm: [(m, q.bias(results, arm, m, kind)) for m in moments] for arm in results.constants}
        if lines := {arm: pairs for arm, pairs in lines.items() if any(seeds for _, seeds in pairs)}:
            found[kind] = lines
    if not found:
        return None
    with drawing():
        figure, axes = sheet(1, len(found), 3.2, 6.5 if len(found) == 1 else 11.0)
        for ax, (kind, lines) in zip(axes, found.items(), strict=True):
            for arm, pairs in lines.items():
                series(ax, pairs, beta_colour(arm.beta or 0.0))
            ax.set(title=kind.capitalize(), yscale="log", xlabel="samples seen", ylabel=BIAS_NORMS.get(kind, "squared error, relative"))
            ax.xaxis.set_major_formatter(lambda x, _: short(x))
            log_ticks(ax, "y", pad=1.1)
        drawn = [arm for arm in results.constants if any(arm in lines for lines in found.values())]
        key(figure, [(f"β = {arm.beta:g}", beta_colour(arm.beta or 0.0), {}) for arm in drawn])
        return png(figure)


def _moments(results: Results) -> list[int]:
    return [m for m in results.moments if results.end and m <= results.end]


def _errors(results: Results, center: str, seen: int) -> tuple[list[float], list[float]] | None:
    """Coefficients and geometric means over seeds of M."""
    betas = q.grid(results, "error", center, "betas")
    found = [(b, ratio(value, dict.fromkeys(value, 1.0))) for b in betas if (value := _m(results, center, seen, b))]
    pairs = [(b, change.value) for b, change in found if change.n and change.value > LOW]
    return ([b for b, _ in pairs], [x for _, x in pairs]) if len(pairs) > 1 else None


def _m(results: Results, center: str, seen: int, beta: float) -> Seeds:
    return results.value(results.base, seen, lambda record: q.error_at(record, center, beta))


def _losses(results: Results, tangent: str) -> list[tuple[float, Seeds]]:
    times = q.grid(results, "loss", "t")
    found = [(t, q.variances(results, results.end, tangent, t)) for t in times]
    return [(t, seeds) for t, seeds in found if seeds]


FIGURES: dict[str, Callable[[Results], bytes | None]] = {"variance": variance, "error": error, "optima": optima, "bias": bias}
