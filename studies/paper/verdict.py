"""The figure of README.md from the committed records alone: `python studies/paper/verdict.py` draws verdict.png and prints its numbers.

Each row is the ratio of the distances of two arms, paired by seed: pooled over the sets of a seed by the mean logarithm, then the
geometric mean over seeds with its 95 percent t-interval; printed below it for each set. Below 1 the first arm is nearer to the data.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from meanstep.program.pages.statistics import Change, logs
from meanstep.program.reproduce.paper.measured import held
from meanstep.program.reproduce.paper.published import numbers
from meanstep.program.reproduce.paper.rows import table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "dit"))
from contrasts import last, parts, shown  # noqa: E402

ZERO, ONE, TRACE = "beta 0", "ema 1", "ema 1 trace t2"
EXACT = "exact"
"""The study of the toys at the published length."""
TWO = "sw1_two"
"""Sliced W1 of two jumps."""
NAMES = {
    "digits-authors": "digits, authors' guided loss",
    "digits-coefficient": "digits, logit-normal times",
    "digits-uniform": "digits, uniform times",
    "cifar-authors": "CIFAR-10 latents, authors' guided loss",
    "cifar-coefficient": "CIFAR-10 latents, logit-normal times",
    "cifar-uniform": "CIFAR-10 latents, uniform times",
}
"""Parts of the DiT's study; only the authors' loss is guided."""
LOW, HIGH = 0.38, 2.6
"""Of the figure: an interval that goes on has an arrow there."""
Distances = dict[str, dict[int, float]]
"""By set and seed, of samples under the EMA weights."""


@dataclass(frozen=True)
class Row:
    """A comparison: what, of which arms; `group`: under which heading."""

    group: str
    what: str
    above: Distances
    below: Distances

    def of(self, name: str) -> Change:
        """On one set."""
        return Change(tuple(logs(self.above[name], self.below[name]).values()))

    def pooled(self) -> Change:
        """Over all sets, of the seeds that every set has on both sides."""
        each = [logs(self.above[name], self.below[name]) for name in self.above]
        whole = sorted(set.intersection(*(set(found) for found in each)))
        return Change(tuple(fmean(found[seed] for found in each) for seed in whole))


def toys(study: str, id: str, quantity: str = "sw1", where: str = "") -> Distances:
    """A quantity of `Model`, one-step sliced W1 by default, in a committed study of points; `where`: one set alone."""
    fit = [m for m in held() if (m.study, m.id) == (study, id) and (m.where == where or not where)]
    return {name: {m.seed: getattr(m, quantity) for m in fit if m.where == name} for name in sorted({m.where for m in fit})}


def unseen(set: str, arm: str) -> Distances:
    """The Frechet distance to held-out rows."""
    lines = [json.loads(line) for line in (HERE / "unseen.jsonl").read_text(encoding="utf-8").splitlines()]
    return {set: {r["seed"]: r["frechet, held out"] for r in lines if (r["set"], r["arm"]) == (set, arm)}}


def dit() -> list[Row]:
    """The DiT's parts that have records of three seeds, `dit/contrasts.py` has all contrasts: what was changed alone; last the times."""
    coefficient, weight = "Small DiT (Frechet), coefficient 1 over 0", "Small DiT (Frechet), squared error over adaptive weight"
    pairs = [
        (coefficient, "adaptive weight", "beta@1", "beta@0"),
        (coefficient, "squared error", "squared@1", "squared@0"),
        (weight, "coefficient 0", "squared@0", "beta@0"),
        (weight, "coefficient 1", "squared@1", "beta@1"),
    ]
    each = {folder.name: {arm: last(folder, arm) for pair in pairs for arm in pair[2:]} for folder in parts()}
    heading = "Small DiT (Frechet), uniform over logit-normal times"
    times = [
        Row(heading, f"{words}, {arm}", {words: each[f"{data}-uniform"][name]}, {words: each[f"{data}-coefficient"][name]})
        for data, words in (("digits", "digits"), ("cifar", "CIFAR-10 latents"))
        for name, arm in (("beta@0", "adaptive weight"), ("squared@0", "squared error"))
        if f"{data}-uniform" in each
    ]
    return [
        Row(group, f"{NAMES[part]}, {what}", {part: found[above]}, {part: found[below]})
        for group, what, above, below in pairs
        for part, found in each.items()
        if len(found[above].keys() & found[below].keys()) > 2
    ] + times


def rows() -> list[Row]:
    """The capped and uncapped toys are the authors' protocol, plane and mixtures ours."""
    cap, all_gaps = "capped", "uncapped"
    coefficient, gap, target = (
        "Points (sliced W1), coefficient 1 over 0",
        "Points (sliced W1), gaps",
        "Posterior velocity in both roles (Frechet)",
    )
    return [
        Row(coefficient, "B1: authors' toys, one jump (never trained)", toys(cap, ONE), toys(cap, ZERO)),
        Row(coefficient, "B2: authors' toys, two jumps (trained)", toys(cap, ONE, TWO), toys(cap, ZERO, TWO)),
        Row(coefficient, "B3: the same, all gaps trained, one jump", toys(all_gaps, ONE), toys(all_gaps, ZERO)),
        Row(coefficient, "A2: authors' toys, 200,000 steps, one jump (never trained)", toys(EXACT, ONE), toys(EXACT, ZERO)),
        Row(coefficient, "the same, two jumps (trained)", toys(EXACT, ONE, TWO), toys(EXACT, ZERO, TWO)),
        Row(coefficient, "A2: the same, trace weight over coefficient 0, one jump", toys(EXACT, TRACE), toys(EXACT, ZERO)),
        Row(coefficient, "our protocol, plane, no anchor, one jump", toys("main", ONE), toys("main", ZERO)),
        Row(
            coefficient,
            "our protocol, mixture, d = 64, no anchor",
            toys("mixtures", ONE, where="mixture-64"),
            toys("mixtures", ZERO, where="mixture-64"),
        ),
        Row(gap, "B4: all gaps trained over gaps up to 0.5, one jump, beta 0", toys(all_gaps, ZERO), toys(cap, ZERO)),
        Row(gap, "B4: the same at beta 1", toys(all_gaps, ONE), toys(cap, ONE)),
        Row(gap, "B5: two jumps over one, gaps up to 0.5, beta 0", toys(cap, ZERO, TWO), toys(cap, ZERO)),
        Row(gap, "B5: the same at beta 1", toys(cap, ONE, TWO), toys(cap, ONE)),
        Row(gap, "two jumps, gaps up to 0.5, over one, all gaps, beta 0", toys(cap, ZERO, TWO), toys(all_gaps, ZERO)),
        Row(target, "CIFAR-10 latents, 40,000 rows", unseen("cifar-latents", "posterior in both"), unseen("cifar-latents", "conditional")),
        Row(target, "digits, 1,200 rows", unseen("digits", "posterior in both"), unseen("digits", "conditional")),
        *dit(),
    ]


def others() -> list[Row]:
    """Not in the figure: the variance of a batch's gradient, and what else the long toys have."""
    noise, long = "Variance of the gradient, coefficient 0 over 1", "Points (sliced W1), authors' toys, 200,000 steps"
    return [
        Row(noise, "authors' toys, 50,000 steps", toys("capped", ZERO, "variance"), toys("capped", ONE, "variance")),
        Row(noise, "A4: authors' toys, 200,000 steps", toys(EXACT, ZERO, "variance"), toys(EXACT, ONE, "variance")),
        Row(long, "coefficient .5 over 0, one jump", toys(EXACT, "ema 0.5"), toys(EXACT, ZERO)),
        Row(long, "trace weight over coefficient 0, two jumps", toys(EXACT, TRACE, TWO), toys(EXACT, ZERO, TWO)),
        Row(long, "two jumps over one, coefficient 0", toys(EXACT, ZERO, TWO), toys(EXACT, ZERO)),
    ]


def published() -> list[str]:
    """A1 of toys/README.md, and the other published numbers of the toys, as `meanstep reproduce paper` judges them."""
    lines = []
    for row in table([n for n in numbers() if n.part == "toy"], held()):
        if row.theirs:
            known, here = row.published, row.theirs
            theirs, ours = ("" if spread is None else f" ({spread:.3g})" for spread in (known.deviation, here.sd))
            why = f"{row.verdict.word} ({row.verdict.why})" + (row.also and f"; {row.also}")
            lines.append(f"{known.name}: published {known.value}{theirs}, here {here.mean:.3g}{ours}, {why}")
    return lines


def told(change: Change) -> str:
    return f"{shown(change)}, {change.n} seeds"


def drawn(found: list[Row]) -> None:
    """verdict.png: a dot and its interval a row; in colour where the interval leaves out 1."""
    figure, axis = plt.subplots(figsize=(9, 2.4 + 0.26 * len(found)), layout="constrained")
    y, ticks = 0.0, {}
    for before, row in zip([None, *found], found, strict=False):
        if before is None or before.group != row.group:
            y += 1.3 if before else 0.6
            axis.text(-0.015, y, row.group, transform=axis.get_yaxis_transform(), ha="right", va="center", weight="bold", fontsize=10)
            y += 1
        change = row.pooled()
        low, high = change.interval or (change.value, change.value)
        colour = "#0072b2" if high < 1 else "#d55e00" if low > 1 else "#767676"
        axis.plot([low, high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        for edge, arrow in ((LOW, "<"), (HIGH, ">")):
            if not LOW <= (low if edge == LOW else high) <= HIGH:
                axis.plot(edge, y, arrow, color=colour, ms=6, clip_on=False)
        axis.plot(change.value, y, "o", color=colour, ms=6)
        axis.text(1.015, y, f"{change.value:.2f}", transform=axis.get_yaxis_transform(), va="center", fontsize=9, color=colour)
        ticks[y] = f"{row.what}  ({change.n} seeds)"
        y += 1
    axis.axvline(1, color="#999999", lw=0.8)
    axis.set_xscale("log")
    axis.set(xlim=(LOW, HIGH), ylim=(y - 0.4, 0), xlabel="ratio of distances to the data (below 1: the first arm is nearer)")
    ticks_at = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 2.5]
    axis.set_xticks(ticks_at, [f"{x:g}" for x in ticks_at])
    axis.minorticks_off()
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", lw=0.4, alpha=0.6)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    figure.savefig(HERE / "verdict.png", dpi=120, metadata={"Software": None})


def main() -> None:
    found = [row for row in rows() if row.pooled().n > 2]  # no verdict of a study that is under way
    for row in (*found, *(row for row in others() if row.pooled().n > 2)):
        print(f"{row.group}, {row.what}: {told(row.pooled())}")
        if len(row.above) > 1:
            print(*(f"    {name:18} {told(row.of(name))}" for name in row.above), sep="\n")
    print("Published numbers of the toys, mean and standard deviation over seeds; A1: sw1 at beta 0", *published(), sep="\n    ")
    drawn(found)


if __name__ == "__main__":
    main()
