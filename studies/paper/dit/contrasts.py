"""The contrasts of this study from the records of its runs, as they were stated before: python studies/paper/dit/contrasts.py RUNS.

One-step distances with EMA weights at the last moment, ratios paired by seed, geometric means with 95 percent t-intervals; p by Holm
over the contrasts of a part.
"""

import sys
from pathlib import Path

from meanstep.program.pages.statistics import Change, holm, mean, ratio
from meanstep.program.reproduce.images.report.results import Results, read

PARTS = ("digits-authors", "digits-coefficient", "cifar-authors", "cifar-coefficient")
CONTRASTS = (
    ("squared-anchored@1", "beta@0", "the published pair"),
    ("squared@0", "beta@0", "weight, at 0"),
    ("squared@1", "beta@1", "weight, at 1"),
    ("anchored@0", "beta@0", "anchor, at 0, p = 1"),
    ("anchored@1", "beta@1", "anchor, at 1, p = 1"),
    ("squared-anchored@0", "squared@0", "anchor, at 0, p = 0"),
    ("squared-anchored@1", "squared@1", "anchor, at 1, p = 0"),
    ("beta@0.25", "beta@0", "coefficient .25, p = 1"),
    ("beta@0.5", "beta@0", "coefficient .5, p = 1"),
    ("beta@1", "beta@0", "coefficient 1, p = 1"),
    ("squared@1", "squared@0", "coefficient 1, p = 0"),
    ("squared-anchored@1", "squared-anchored@0", "coefficient 1, p = 0, anchored"),
    ("stated@1", "beta@0", "coefficient 1 as stated, p = 1"),
    ("stated-squared-anchored@1", "squared-anchored@0", "coefficient 1 as stated, p = 0, anchored"),
)


def contrasts(results: Results) -> list[tuple[str, str, str, Change]]:
    """Those of which both arms have a seed at the last moment."""
    end, arms = results.moments[-1], {arm.name: arm for arm in results.arms}
    found = [(a, b, what, ratio(*(results.distance(arms.get(name), end) for name in (a, b)))) for a, b, what in CONTRASTS]
    return [row for row in found if row[3].n]


def told(name: str, results: Results) -> str:
    """A part: distances over the floor, contrasts, and the estimators as published."""
    end, floor, lines = results.moments[-1], results.floor or float("nan"), [f"## {name}\n"]
    distances = {arm.name: mean(results.distance(arm, end).values()) for arm in results.arms}
    lines += [
        f"Floor {floor:.3g}; one step, times the floor: "
        + ", ".join(f"{arm} {m.mean / floor:.2f}" for arm, m in distances.items() if m)
        + ".\n"
    ]
    lines += ["| contrast | arms | seeds | ratio | p (Holm) |", "|---|---|---|---|---|"]
    rows = contrasts(results)
    for (a, b, what, change), p in zip(rows, holm([change.p() for *_, change in rows]), strict=True):
        between = f" [{change.interval[0]:.3f}, {change.interval[1]:.3f}]" if change.interval else ""
        lines.append(f"| {what} | {a} over {b} | {change.n} | {change.value:.3f}{between} | {'' if p is None else f'{p:.3g}'} |")
    base = results.base
    for number in ("kappa", "scalar", "matrix"):
        by_moment = [mean(results.value(base, m, lambda r, n=number: (r.get("published") or {}).get(n)).values()) for m in results.moments]
        lines.append(
            f"\nPublished estimator, {number}, by moment: " + ", ".join("" if m is None else f"{m.mean:.3g}" for m in by_moment) + "."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for part in PARTS:
        if (Path(sys.argv[1]) / part / "study.json").exists():
            print(told(part, read(Path(sys.argv[1]) / part)))
