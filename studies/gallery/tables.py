"""The study's report from its records: `python studies/gallery/tables.py` writes summary.csv, results.md and curves.png beside itself,
and the tables of docs/gallery.md between their markers.
"""

import csv
import json
import math
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "gallery.md"
MARKS = "<!-- numbers: studies/gallery/tables.py -->\n", "<!-- end of numbers -->\n"
LONGER = "<!-- longer: studies/gallery/tables.py -->\n", "<!-- end of longer -->\n"
KINDS, FLOW, JUMP = ("policy", "signals", "super-resolution", "table"), "flow matching", "one step"
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""At 97.5 percent, by the number of seeds."""

Cells = dict[tuple[str, str, int], dict[str, Any]]
Interval = tuple[float, float, float]


def mean(values: list[float]) -> Interval:
    """With its 95 percent interval."""
    m, half = statistics.mean(values), STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return m, m - half, m + half


def ratio(pairs: list[tuple[float, float]]) -> Interval:
    """Geometric, paired by seed."""
    a, b, c = (math.exp(x) for x in mean([math.log(p / q) for p, q in pairs]))
    return a, b, c


def shown(values: Interval, digits: int = 3) -> str:
    return "{:.{n}f} [{:.{n}f}, {:.{n}f}]".format(*values, n=digits)


def seeds(cells: Cells, kind: str) -> list[int]:
    """Those that both methods have."""
    return sorted(seed for k, method, seed in cells if k == kind and method == JUMP and (k, FLOW, seed) in cells)


def last(cell: dict[str, Any], steps: int, what: str = "sw1") -> float:
    """A distance at the end of a run."""
    return float(cell["points"][-1]["found"][str(steps)][what])


def after(cell: dict[str, Any], seconds: float, what: str = "sw1") -> float:
    """One jump's distance after so many seconds, between the points around them, both in logarithms; never beyond the last point."""
    found = [(math.log(p["seconds"]), math.log(p["found"]["1"][what])) for p in cell["points"]]
    x = math.log(seconds)
    if x >= found[-1][0]:
        return math.exp(found[-1][1])
    if x < found[0][0]:
        raise ValueError(f"{seconds} seconds lie before the first point, {cell['points'][0]['seconds']}")
    (a, p), (b, q) = next((one, two) for one, two in pairwise(found) if one[0] <= x <= two[0])
    return math.exp(p + (q - p) * (x - a) / (b - a))


def compared(cells: Cells, kind: str, what: str = "sw1") -> dict[str, Interval]:
    """Ratios of one jump to flow matching in four steps."""
    pairs = [(cells[kind, JUMP, seed], cells[kind, FLOW, seed]) for seed in seeds(cells, kind)]
    return {
        "same samples": ratio([(last(a, 1, what), last(b, 4, what)) for a, b in pairs]),
        "same seconds": ratio([(after(a, b["points"][-1]["seconds"], what), last(b, 4, what)) for a, b in pairs]),
    }


def verdict(values: Interval) -> str:
    """By the rule of README.md."""
    if values[0] <= 1:
        return "at or below, shown" if values[2] <= 1 else "at or below, not shown"
    return "above, shown" if values[1] > 1 else "above, not shown"


def rows(cells: Cells, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each data set, method, number of steps and distance, and for each comparison."""
    for kind in kinds:
        for method in (FLOW, JUMP):
            found = [cells[kind, method, seed] for seed in seeds(cells, kind)]
            for what in ("sw1", "energy"):
                for steps in (1, 4, 32):
                    yield row(kind, method, f"{what}, {steps} steps", mean([last(cell, steps, what) for cell in found]))
                yield row(kind, "training rows", f"{what}, floor", (found[0]["floor"][what],) * 3)
            yield row(kind, method, "seconds", mean([cell["points"][-1]["seconds"] for cell in found]))
        for name, values in compared(cells, kind).items():
            yield row(kind, "one jump over four Euler steps", name, values)


def row(kind: str, method: str, what: str, values: Interval) -> dict[str, Any]:
    return {"data": kind, "method": method, "what": what} | {k: f"{x:.4g}" for k, x in zip(("mean", "low", "high"), values, strict=True)}


def numbers(cells: Cells, kinds: list[str]) -> Iterator[str]:
    """The table of the gallery: sliced W1."""
    yield from both(cells, kinds)
    yield from ("", "| one jump over four Euler steps | same samples | | same seconds | |", "|---|---|---|---|---|")
    for kind in kinds:
        yield f"| {kind} | {' | '.join(f'{shown(v, 2)} | {verdict(v)}' for v in compared(cells, kind).values())} |"


def both(cells: Cells, kinds: list[str]) -> Iterator[str]:
    """The table of both methods on all data sets."""
    yield "| data | method | 1 step | 4 steps | 32 steps | floor | seconds | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in kinds:
        yield from lines(cells, kind)


def lines(cells: Cells, kind: str) -> Iterator[str]:
    """Both methods of a data set."""
    for method in (JUMP, FLOW):
        found = [cells[kind, method, seed] for seed in seeds(cells, kind)]
        parts = [shown(mean([last(cell, steps) for cell in found])) for steps in (1, 4, 32)]
        spent = statistics.mean(cell["points"][-1]["seconds"] for cell in found)
        yield f"| {kind} | {method} | {' | '.join(parts)} | {found[0]['floor']['sw1']:.3f} | {spent:.1f} | {len(found)} |"


def report(cells: Cells, kinds: list[str]) -> Iterator[str]:
    """Markdown."""
    yield from ("# Results", "", "Generated by `python studies/gallery/tables.py`: sliced W1, means over seeds, 95 percent intervals.", "")
    yield from numbers(cells, kinds)
    yield from ("", "## Energy distance", "", "| one jump over four Euler steps | same samples | same seconds |", "|---|---|---|")
    for kind in kinds:
        try:
            yield f"| {kind} | {' | '.join(shown(v, 2) for v in compared(cells, kind, 'energy').values())} |"
        except ValueError:  # it is without bias, so that it may be at most 0
            yield f"| {kind} | at the floor | at the floor |"
    held = [kind for kind in kinds if all(v[0] <= 1 for v in compared(cells, kind).values())]
    yield from ("", f"At or below by both comparisons: **{len(held)} of {len(kinds)}** ({', '.join(held) or 'none'}).", "")


def longer(cells: Cells, kinds: list[str]) -> Iterator[str]:
    """The tables of the second part, whose one-step runs see fewer rows."""
    yield from both(cells, kinds)
    yield from ("", "| one jump over four Euler steps | sliced W1 | | seconds of training |", "|---|---|---|---|")
    for kind in kinds:
        pairs = [(cells[kind, JUMP, seed], cells[kind, FLOW, seed]) for seed in seeds(cells, kind)]
        found = ratio([(last(a, 1), last(b, 4)) for a, b in pairs])
        spent = ratio([(a["points"][-1]["seconds"], b["points"][-1]["seconds"]) for a, b in pairs])
        yield f"| {kind} | {shown(found, 2)} | {verdict(found)} | {shown(spent, 2)} |"


def figure(cells: Cells, kinds: list[str], path: Path) -> None:
    """Distance over seconds, a line for each seed."""
    drawn, axes = plt.subplots(1, len(kinds), figsize=(11, 2.8), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for seed in seeds(cells, kind):
            for method, steps, style in ((JUMP, 1, "C0-"), (JUMP, 4, "C0:"), (FLOW, 4, "C1-"), (FLOW, 1, "C1:")):
                points = cells[kind, method, seed]["points"]
                label = f"{method}, {steps} step{'s'[: steps > 1]}" if seed == seeds(cells, kind)[0] else None
                values = [p["found"][str(steps)]["sw1"] for p in points]
                axis.plot([p["seconds"] for p in points], values, style, lw=1, alpha=0.8, label=label)
        axis.axhline(cells[kind, FLOW, seeds(cells, kind)[0]]["floor"]["sw1"], color="0.6", lw=0.8)
        axis.set(title=kind, xscale="log", yscale="log", xlabel="seconds")
    axes[0][0].set_ylabel("sliced W1")
    axes[0][0].legend(fontsize=6)
    drawn.tight_layout()
    drawn.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(drawn)


def read(name: str) -> Cells:
    """The records of a part, none if it has not run."""
    path = HERE / name
    found = map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.exists() else [])
    return {(line["kind"], line["method"], line["seed"]): line for line in found}


def main() -> None:
    cells, more = read("records.jsonl"), read("long.jsonl")
    kinds, far = ([kind for kind in KINDS if len(seeds(found, kind)) > 1] for found in (cells, more))
    with (HERE / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("data", "method", "what", "mean", "low", "high"), lineterminator="\n")
        writer.writeheader()
        writer.writerows({tuple(r.values()): r for r in rows(cells, kinds)}.values())
    parts = [*report(cells, kinds), "## Longer, with a falling rate", "", *longer(more, far), ""]
    (HERE / "results.md").write_text("\n".join(parts), encoding="utf-8")
    figure(cells, kinds, HERE / "curves.png")
    if PAGE.exists():
        page = PAGE.read_text(encoding="utf-8")
        for (begin, end), found in ((MARKS, numbers(cells, kinds)), (LONGER, longer(more, far))):
            before, rest = page.split(begin)
            page = before + begin + "\n".join(found) + "\n" + end + rest.split(end)[1]
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
