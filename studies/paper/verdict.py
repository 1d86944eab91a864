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


def noise() -> Row:
    """Not in the figure: the variance of a batch's gradient."""
    return Row(
        "Variance of the gradient", "coefficient 0 over 1, authors' toys", toys("capped", ZERO, "variance"), toys("capped", ONE, "variance")
    )


def exact() -> tuple[list[Row], list[str]]:
    """A2 to A4 of toys/README.md as rows, of the sets that are whole; and A1, the rows of `meanstep reproduce paper`, as lines."""
    arms = (ZERO, "ema 0.5", ONE, TRACE)
    whole = [name for name in toys(EXACT, ZERO) if all(len(toys(EXACT, arm).get(name, {})) == 3 for arm in arms)]
    heading = f"Authors' toys, 200,000 steps, {len(whole)} of 6 sets"

    def ratio(what: str, above: str, below: str, quantity: str = "sw1") -> Row:
        first, second = ({name: toys(EXACT, arm, quantity)[name] for name in whole} for arm in (above, below))
        return Row(heading, what, first, second)

    found = [
        ratio("A2, A3: coefficient 1 over 0, one jump", ONE, ZERO),
        ratio("A2, A3: trace weight over coefficient 0, one jump", TRACE, ZERO),
        ratio("coefficient .5 over 0, one jump", "ema 0.5", ZERO),
        ratio("coefficient 1 over 0, two jumps", ONE, ZERO, TWO),
        ratio("A4: variance of the gradient, coefficient 0 over 1", ZERO, ONE, "variance"),
    ]
    asked = [n for n in numbers() if n.part == "toy" and n.quantity == "sw1" and n.where in whole]
    lines = [
        f"{row.published.name}: published {row.published.value} ({row.published.deviation:g}), "
        f"here {row.theirs.mean:.3f} ({row.theirs.sd or 0:.3f}), {row.verdict.word} ({row.verdict.why}){row.also and '; ' + row.also}"
        for row in table(asked, held())
        if row.theirs
    ]
    return [row for row in found if row.above], lines


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
    found = rows()
    long, lines = exact()
    for row in (*found, noise(), *long):
        print(f"{row.group}, {row.what}: {told(row.pooled())}")
        if len(row.above) > 1:
            print(*(f"    {name:18} {told(row.of(name))}" for name in row.above), sep="\n")
    print("A1: sliced W1 of one jump at 200,000 steps, mean and standard deviation over seeds", *lines, sep="\n    ")
    drawn(found)


if __name__ == "__main__":
    main()
