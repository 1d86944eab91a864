"""The two figures of the verdict: what the coefficient changes where gaps are trained and where not, and what the histories can tell."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from meanstep.program.pages import look
from meanstep.program.pages.statistics import Mean, mean
from meanstep.program.reproduce.paper import history
from meanstep.program.reproduce.paper.measured import Model, chosen
from meanstep.program.reproduce.paper.rows import finite
from meanstep.program.reproduce.points.settings import SETS

CASES = (
    ("gaps capped at 0.5, one jump of 1", 0.5, "sw1", look.BLUE),
    ("gaps capped at 0.5, two jumps of 0.5", 0.5, "sw1_two", look.ORANGE),
    ("all gaps trained, one jump", 1.0, "sw1", look.GREEN),
)


def _over_seeds(models: Sequence[Model], gap: float, quantity: str, name: str, where: str) -> Mean | None:
    """Of the seeds that did not diverge; None where there are none."""
    found = chosen(models, protocol="authors", gap=gap, id=name, where=where, centres="")
    return mean(finite(found, quantity).values())


def cap(models: Sequence[Model]) -> Figure | None:
    """SW1 at beta 0 and 1 on every set in the three cases, with 95 percent intervals over seeds; None without both caps."""
    sets = [s for s in SETS if all(_over_seeds(models, gap, quantity, "beta 0", s) for _, gap, quantity, _ in CASES)]
    if not sets:
        return None
    figure, axes = look.panels(len(sets))
    for ax, name in zip(axes, sets, strict=False):
        for place, (_, gap, quantity, colour) in enumerate(CASES):
            means = {beta: _over_seeds(models, gap, quantity, id, name) for beta, id in ((0, "beta 0"), (1, "ema 1"))}
            known = {beta + 0.09 * (place - 1): found for beta, found in means.items() if found is not None}
            for x, found in known.items():
                if found.low is not None and found.high is not None:
                    ax.plot([x, x], [found.low, found.high], color=colour)
            ax.plot([*known], [found.mean for found in known.values()], "o", color=colour, markersize=5)
        ax.set_title(name.replace("_", " "))
        ax.set(xlim=(-0.4, 1.4), xticks=[0, 1], xticklabels=["β = 0", "β = 1"], ylabel="sliced W1")
        ax.set_ylim(bottom=0)
    look.key(figure, [(label, colour, {"marker": "o", "linestyle": "none"}) for label, _, _, colour in CASES])
    return figure


def histories(models: Sequence[Model]) -> Figure | None:
    """FID of each coefficient less the mean of the two runs at beta = 0, and those two about it."""
    points = history.counted(history.histories())
    steps = [point.step / 1000 for point in points]
    zero = [(point.at[history.ZERO] + point.at[history.AGAIN]) / 2 for point in points]
    figure, (ax,) = look.sheet(1, height=3.4)
    apart = [abs(point.at[history.ZERO] - point.at[history.AGAIN]) / 2 for point in points]
    ax.fill_between(steps, [-x for x in apart], apart, color="#9aa5b1", alpha=0.45, linewidth=0)
    colours = dict(zip(history.OTHERS, (look.BLUE, look.GREEN, look.ORANGE), strict=True))
    for name, colour in colours.items():
        y = [point.at[name] - z for point, z in zip(points, zero, strict=True)]
        ax.plot(steps, y, color=colour)
    ax.axhline(0, color=look.MUTED, linewidth=0.8)
    ax.set(xlabel="thousand steps", ylabel="FID less the mean at β = 0", ylim=(-3, 22))
    key: list[tuple[str, str, dict[str, Any]]] = [(name.replace("beta_", "β = "), colour, {}) for name, colour in colours.items()]
    look.key(figure, [*key, ("between the two runs at β = 0", "#9aa5b1", {"linewidth": 8})])
    return figure


FIGURES = {"cap": cap, "histories": histories}
