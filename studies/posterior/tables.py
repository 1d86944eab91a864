"""Writes results.md and packs the records beside this file: `python studies/posterior/tables.py OUT`."""

import gzip
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from data import SETS
from exact import EDGES, PLAIN, SIZES, law
from scipy import stats
from train import ARMS

from meanstep.program.console import write
from meanstep.program.machine import environment

TIMES = {"MeanFlow's times": "logit", "uniform times": "uniform"}
Record = dict[str, Any]


def interval(values: list[float], digits: int = 3, logs: bool = False) -> str:
    """The mean over seeds with its 95 percent t-interval; of ratios on the logarithm if `logs`."""
    if any(not math.isfinite(x) for x in values):
        return ""
    values = [math.log(x) for x in values] if logs else values
    mean, n = statistics.fmean(values), len(values)
    reach = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5 if n > 1 else math.nan
    shown = [math.exp(x) if logs else x for x in (mean, mean - reach, mean + reach)]
    return f"{shown[0]:.{digits}g} [{shown[1]:.{digits}g}, {shown[2]:.{digits}g}]"


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


class Exact:
    """The records of exact.py by set, variant and size."""

    def __init__(self, records: list[Record]) -> None:
        self.sets = [name for name in SETS if any(r["set"] == name for r in records)]
        self.found = {(r["set"], r["variant"], r["size"], r["seed"]): r for r in records}
        self.seeds = sorted({r["seed"] for r in records})
        self.about = {r["set"]: r for r in records}

    def sizes(self, name: str) -> list[int]:
        return [n for n in SIZES if n < self.about[name]["pool"]]

    def plain(self, name: str) -> int:
        return max(n for n in self.sizes(name) if n <= PLAIN)

    def mean(self, name: str, variant: str, size: int | None, column: str, seed: int, weights: list[float]) -> float:
        """A column's average over bins of `t`; the truth has the size of its pool."""
        values = self.found[name, variant, size or self.about[name]["pool"], seed][column]
        return sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)

    def ratio(
        self, name: str, above: tuple[str, int | None, str], below: tuple[str, int | None, str], w: list[float], least: float = 0
    ) -> str:
        """Empty where that below is less than `least` of the linear error."""
        under = [self.mean(name, *below, s, w) for s in self.seeds]
        if min(under) <= least * max(self.mean(name, *LINEAR, s, w) for s in self.seeds):
            return ""
        return interval([self.mean(name, *above, s, w) / b for s, b in zip(self.seeds, under, strict=True)])

    def value(self, name: str, above: tuple[str, int | None, str], weights: list[float]) -> str:
        return interval([self.mean(name, *above, s, weights) for s in self.seeds])


LINEAR, NOISE, OF_CLASS = ("truth", None, "linear"), ("truth", None, "noise"), ("truth", None, "class noise")


def only(k: int) -> list[float]:
    """The weights of one bin."""
    return [float(i == k) for i in range(len(EDGES) - 1)]


def binned(sets: list[str], cell: Callable[[str, list[float]], str]) -> Iterator[str]:
    bins = [f"t {a:g} to {b:g}" for a, b in pairwise(EDGES)]
    yield from table(["set", *bins], [[name, *(cell(name, only(k)) for k in range(len(bins)))] for name in sets])


def measured(x: Exact) -> Iterator[str]:
    n = {name: x.plain(name) for name in x.sets}
    yield f"Seeds {', '.join(map(str, x.seeds))}; means over seeds with 95 percent t-intervals.\n"
    for title, times in TIMES.items():
        w = law(times)
        yield f"## One reference of {PLAIN:,} images (1,024 or 256 where there are fewer), own image among them, {title}\n"
        yield "Squares of velocity differences: `removed` to the conditional, `left` to the pool's posterior, `noise` between both.\n"
        rows = [
            [
                name,
                str(x.about[name]["d"]),
                f"{x.about[name]['pool']:,}",
                f"{n[name]:,}",
                x.value(name, ("all classes", n[name], "held"), w),
                x.ratio(name, ("all classes", n[name], "removed"), LINEAR, w),
                x.ratio(name, NOISE, LINEAR, w),
                x.ratio(name, ("all classes", n[name], "left"), NOISE, w),
                x.value(name, LINEAR, w),
            ]
            for name in x.sets
        ]
        header = [
            "set",
            "d",
            "pool",
            "images",
            "rows where the own image has > 99 % of the weight",
            "removed / linear error",
            "noise / linear error",
        ]
        yield from table([*header, "left / noise", "linear error"], rows)
    w = law("logit")
    yield "## Rows in which the own image has more than 99 percent of the weight, same references\n"
    yield from binned(x.sets, lambda name, w: x.value(name, ("all classes", n[name], "held"), w))
    yield "## Effective number of images, same references\n"
    yield from binned(x.sets, lambda name, w: x.value(name, ("all classes", n[name], "count"), w))
    yield "## Removed, over the linear error, same references\n"
    yield from binned(x.sets, lambda name, w: x.ratio(name, ("all classes", n[name], "removed"), LINEAR, w))
    for title, column, below in (("Removed, over the linear error", "removed", LINEAR), ("Left, over the noise", "left", NOISE)):
        yield f"## {title}, by the size of the reference, MeanFlow's times\n"
        sized = [
            [
                name,
                *(x.ratio(name, ("all classes", m, column), below, w) if m in x.sizes(name) else "" for m in SIZES),
                x.ratio(name, NOISE, below, w),
            ]
            for name in x.sets
        ]
        yield from table(["set", *(f"{m:,}" for m in SIZES), "pool" if column == "removed" else "none"], sized)
    yield "## Of what is left, the part that is the reference's (a bias, as long as the reference stays), MeanFlow's times\n"
    kept = [[name, *(_spread(x, name, m, w) if m in x.sizes(name) else "" for m in SIZES)] for name in x.sets]
    yield from table(["set", *(f"{m:,}" for m in SIZES)], kept)
    yield "## Without the own image: squared error over the linear error, MeanFlow's times above t = 0.4\n"
    late = [p if low >= 0.4 else 0.0 for p, low in zip(w, EDGES[:-1], strict=True)]
    rows = [
        [name, *(x.ratio(name, ("all classes", m, "without own: removed"), LINEAR, late) if m in x.sizes(name) else "" for m in SIZES)]
        for name in x.sets
    ]
    yield from table(["set", *(f"{m:,}" for m in SIZES)], rows)
    yield from _classes(x, n, w)
    yield from _projected(x, n, w)


def _spread(x: Exact, name: str, m: int, w: list[float]) -> str:
    return interval(
        [1 - x.mean(name, "all classes", m, "shared", s, w) / (x.mean(name, "all classes", m, "left", s, w) or math.nan) for s in x.seeds]
    )


def _classes(x: Exact, n: dict[str, int], w: list[float]) -> Iterator[str]:
    yield "## References by class, same images, MeanFlow's times\n"
    yield "The class's noise is that against the posterior over all images of the row's class; then which of the references count.\n"
    rows = [
        [
            name,
            x.ratio(name, OF_CLASS, NOISE, w),
            x.ratio(name, ("own class", n[name], "removed"), ("all classes", n[name], "removed"), w),
            x.ratio(name, ("own class", n[name], "left"), OF_CLASS, w),
            x.ratio(name, ("all classes", n[name], "class left"), OF_CLASS, w),
        ]
        for name in x.sets
    ]
    header = [
        "set",
        "class's noise / noise",
        "removed, own class / all classes",
        "own class: left / class's noise",
        "all classes: error / class's noise",
    ]
    yield from table(header, rows)
    yield "### All classes: squared error to the class's velocity over its noise (where it is 1 percent of the linear error)\n"
    yield from binned(x.sets, lambda name, w: x.ratio(name, ("all classes", n[name], "class left"), OF_CLASS, w, 0.01))
    yield "### Own class: the same\n"
    yield from binned(x.sets, lambda name, w: x.ratio(name, ("own class", n[name], "left"), OF_CLASS, w, 0.01))


def _projected(x: Exact, n: dict[str, int], w: list[float]) -> Iterator[str]:
    kinds = [f"{kind} {k}" for kind in ("principal", "random") for k in (8, 32, 128)]
    for title, column, below in (
        ("removed, over the linear error", "removed", LINEAR),
        ("squared error to the truth, over the noise", "left", NOISE),
    ):
        yield f"## Distances in k dimensions: {title}, same references, MeanFlow's times\n"
        rows = []
        for name in x.sets:
            have = [kind for kind in kinds if (name, kind, n[name], x.seeds[0]) in x.found]
            cells = {kind: x.ratio(name, (kind, n[name], column), below, w) for kind in ["all classes", *have]}
            rows.append([name, *(cells.get(kind, "") for kind in ["all classes", *kinds])])
        yield from table(["set", "whole images", *kinds], rows)


def cost(records: list[Record]) -> Iterator[str]:
    yield "## Cost: a batch of 32 on one thread of a busy machine, milliseconds (share of the step); MiB computed, not measured\n"
    sizes = (1024, 4096, 16384)
    header = ["event", "d", "step of the DiT"]
    header += [f"{m:,}, {kind}" for m in sizes for kind in ("float32", "float64")] + [f"{m:,}, MiB in float32" for m in sizes]
    rows = []
    for r in records:
        times = [f"{r[f'{m} {kind}']:.1f} ({r[f'{m} {kind}'] / r['step']:.0%})" for m in sizes for kind in ("float32", "float64")]
        event = " x ".join(map(str, r["event"]))
        rows.append([event, str(r["d"]), f"{r['step']:.0f}", *times, *(f"{r[f'{m} MiB']:.0f}" for m in sizes)])
    yield from table(header, rows)


def training(records: list[Record]) -> Iterator[str]:
    found = {(r["arm"], r["seed"]): r for r in records}
    steps = sorted({r["steps"] for r in records})
    yield f"## Training on MNIST 14 x 14: {len(records)} models, {', '.join(f'{s:,}' for s in steps)} steps\n"
    for column in sorted({key for r in records for key in r if key.startswith(("ema", "raw"))}):
        yield f"### Frechet distance, {column}\n"
        rows = []
        for arm in ARMS:
            base = "labels: conditional" if arm.startswith("labels") else "conditional"
            seeds = [s for s in range(100) if column in found.get((arm, s), {}) and column in found.get((base, s), {})]
            if seeds:
                ratio = interval([found[arm, s][column] / found[base, s][column] for s in seeds], logs=True) if arm != base else "1"
                rows.append([arm, interval([found[arm, s][column] for s in seeds]), ratio, str(len(seeds))])
        yield from table(["arm", "distance", "ratio to the conditional velocity, paired", "seeds"], rows)
    if any("floor" in r for r in records):
        first = next(r for r in records if "floor" in r)
        yield f"Of 10,000 training images: {', '.join(f'{key} {value:.3f}' for key, value in first['floor'].items())}.\n"
    times = {arm: statistics.median(r["ms"] for r in records if r["arm"] == arm) for arm in ARMS if any(r["arm"] == arm for r in records)}
    yield "Milliseconds a step (a busy machine): " + ", ".join(f"{arm} {value:.0f}" for arm, value in times.items()) + ".\n"


def main() -> None:
    out, here = Path(sys.argv[1]), Path(__file__).parent
    parts: list[str] = []
    for name, make in (("exact", lambda r: measured(Exact(r))), ("cost", cost), ("train", training)):
        path = out / f"{name}.jsonl"
        if path.exists():
            parts += make([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
            (here / f"{name}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    write(here / "results.md", "\n".join(["# Results\n", *parts]).rstrip() + "\n")
    machine = environment() | {"command": "studies/posterior/run.sh OUT"}
    (here / "env.json").write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
