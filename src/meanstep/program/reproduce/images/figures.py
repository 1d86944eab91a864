"""The figures about distances: over training, by steps, against the constant 0. Knows no files, no page and no verdicts."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meanstep.program.pages import look
from meanstep.program.pages.look import BLUE, MUTED, ORANGE
from meanstep.program.pages.statistics import mean
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT
from meanstep.program.reproduce.images.quantities import COMPUTE_EQUAL, STEPS_EQUAL, equal_compute, equal_steps
from meanstep.program.reproduce.images.results import WEIGHTS, Arm, Results
from meanstep.program.reproduce.report.drawn import mark, over_samples, ratios, series

FAINT = "#9aa5b1"
Lines = Sequence[tuple[Arm, str, float]]


def distance(results: Results) -> Figure | None:
    """One-step distance over samples seen: constants, and the other arms between the best and the worst constant."""
    constants = [arm for arm in results.arms if arm.family in (CONSTANT, ANCHORED) and results.seen(arm)]
    others = [arm for arm in results.others if results.seen(arm)]
    ends: Lines = [(arm, FAINT, 3.2) for arm in _ends(results)]
    groups: list[tuple[str, Lines]] = [("Constant coefficients", _lines(constants))] if constants else []
    groups += [("Schedules and recipes", [*ends, *_lines(others)])] if others else []
    if not groups:
        return None
    figure, axes = look.sheet(1, len(groups), 4.2, 11.0 if len(groups) > 1 else 6.5)
    for ax, (title, lines) in zip(axes, groups, strict=True):
        _over_samples(ax, results, lines, "ema", "1")
        ax.set(title=title, xlabel="samples seen", ylabel="distance of one-step samples (EMA weights)")
    if len(axes) > 1:
        low, high = (pick(edge) for pick, edge in zip((min, max), zip(*(ax.get_ylim() for ax in axes), strict=True), strict=True))
        for ax in axes:
            ax.set_ylim(low, high)
    for ax, (_, lines) in zip(axes, groups, strict=True):
        look.log_ticks(ax, "y")
        named = [(m.mean, arm.name, colour) for arm, colour, _ in lines if (m := mean(results.distance(arm, results.end).values()))]
        look.end_labels(ax, [(y, name, MUTED if colour == FAINT else colour) for y, name, colour in named], gap=0.045)
    return figure


def _lines(arms: Sequence[Arm], width: float = 1.9) -> Lines:
    """Arms in their colours: a coefficient has its own."""
    fixed = {arm.name: look.beta_colour(arm.beta) for arm in arms if arm.family in (CONSTANT, ANCHORED) and arm.beta is not None}
    return [(arm, fixed.get(arm.name, look.CYCLE[i % len(look.CYCLE)]), width) for i, arm in enumerate(arms)]


def _ends(results: Results) -> list[Arm]:
    """The constants with the least and the largest distance at the end."""
    found = [(m.mean, arm) for arm in results.constants if (m := mean(results.distance(arm, results.end).values()))]
    ordered = [arm for _, arm in sorted(found, key=lambda pair: pair[0])]
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def steps(results: Results) -> Figure | None:
    """Distance of the constants over samples seen, for both kinds of weights and all steps of the sampler."""
    lines, columns = _lines([arm for arm in results.constants if results.seen(arm)], 1.6), len(results.steps)
    if not lines or not columns:
        return None
    figure, axes = look.sheet(2, columns, 2.4, 11.0 if columns > 1 else 5.0)
    for i, ax in enumerate(axes):
        weights, n = WEIGHTS[i // columns], results.steps[i % columns]
        _over_samples(ax, results, lines, weights, n)
        ax.set_title(f"{'EMA' if weights == 'ema' else 'raw'} weights, {n} {'step' if n == '1' else 'steps'}")
        look.log_ticks(ax, "y")
    for ax in axes[columns:]:
        ax.set_xlabel("samples seen")
    look.key(figure, [(f"β = {arm.beta:g}", colour, {}) for arm, colour, _ in lines])
    return figure


def _over_samples(ax: Axes, results: Results, lines: Lines, weights: str, n: str) -> None:
    """Means and 95% intervals up to the end; a dashed line for arms with the anchor; the floor."""
    for arm, colour, width in lines:
        style: Any = (0, (4, 2)) if arm.family == ANCHORED else "-"
        seen = [x for x in results.seen(arm) if results.end and x <= results.end]
        series(ax, [(x, results.distance(arm, x, weights, n)) for x in seen], colour, style, width, arm.name)
    over_samples(ax, 4, yscale="log")
    floor = results.floor()
    if floor and floor > 0.5 * ax.get_ylim()[0]:
        ax.axhline(floor, color=MUTED, lw=1, ls=":")


def forest(results: Results) -> Figure | None:
    """The ratio to the constant 0 of every other arm, at equal steps and at equal compute."""
    arms = [arm for arm in results.arms if arm is not results.base and equal_steps(results, arm, results.base).n]
    if not arms:
        return None
    figure, (ax,) = look.sheet(1, 1, 1.0 + 0.34 * len(arms), 9.0)
    for row, arm in enumerate(arms):
        mark(ax, equal_steps(results, arm, results.base), row - 0.14, BLUE, words=".3f")
        mark(ax, equal_compute(results, arm, results.base), row + 0.16, ORANGE, "s", words=".3f")
    label = "←  better than β = 0        distance over that at β = 0        worse  →"
    ratios(ax, [arm.name for arm in arms], label, 1.06, ylim=(len(arms) - 0.4, -0.7))
    look.key(figure, [(STEPS_EQUAL, BLUE, {"marker": "o"}), (COMPUTE_EQUAL, ORANGE, {"marker": "s"})])
    return figure


FIGURES: dict[str, Callable[[Results], Figure | None]] = {"distance": distance, "forest": forest, "steps": steps}
