"""Tables of a study from its records: `python studies/summarise.py RUNS STUDY` writes STUDY/results.md and packs the records.

RUNS: the folder that STUDY/run.sh filled; each folder in it that holds a sweep becomes a section. Every ratio is paired by seed, the
interval is a 95 percent t-interval of the log ratio, `all` takes the sets as units. STUDY/records/ gets each run's sweep.json, env.json
and records.jsonl.gz, from which `meanstep report` makes the page again (gunzip first).
"""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

from meanstep.program.pages.statistics import Change, across, mean, ratio
from meanstep.program.pages.verdicts import with_interval
from meanstep.program.reproduce.points.results import BASE, Results
from meanstep.program.reproduce.records import read_json


def packed(run: Path, study: Path) -> None:
    """The run's records, small enough to commit."""
    kept = study / "records" / run.name
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("sweep.json", "env.json"):
        (kept / name).write_text((run / name).read_text(encoding="utf-8").replace(str(run.parent), "OUT"), encoding="utf-8")
    with (kept / "records.jsonl.gz").open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write((run / "records.jsonl").read_bytes())


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Markdown."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def described(run: Path) -> str:
    """The settings that differ between runs, in words."""
    s = read_json(run / "sweep.json")["settings"]
    rows = f"batch {s['batch']}, {s['times']} times, {s['diagonal_share']:.0%} of rows at r = t, weight p = {s['power']:g}"
    return f"{s['steps']:,} steps, {rows}, seeds {' '.join(map(str, s['seeds']))}, arms {' '.join(s['arms'])}."


def quality(results: Results, ids: list[str], weights: str) -> Iterator[str]:
    """SW1 of beta 0, then every model's over it."""
    changes = {
        id: {name: ratio(results.score(name, id, weights=weights), results.score(name, BASE, weights=weights)) for name in results.sets}
        for id in ids
    }
    sets = [name for name in results.sets if results.score(name, BASE, weights=weights)]
    first = [f"{found.mean:.4f}" if (found := mean(results.score(name, BASE, weights=weights).values())) else "" for name in sets]
    rows = [[f"{BASE}, SW1", *first, ""]]
    for id in ids:
        if id != BASE:
            rows.append([id, *(shown(changes[id][name]) for name in sets), shown(across(changes[id][name] for name in sets))])
    yield from table([f"SW1 over that of beta 0, {weights} weights", *sets, "all"], rows)


def shown(change: Change) -> str:
    """The ratio with its interval, starred where the interval excludes 1."""
    if not change.n:
        return ""
    inside = change.interval is None or change.interval[0] <= 1 <= change.interval[1]
    return with_interval(change) + ("" if inside else " *")


def variance(results: Results) -> Iterator[str]:
    """The gradient's variance at beta 0 over beta 1 on the weights trained at beta 0, and what theory predicts."""
    rows = []
    for name in results.sets:
        probes = list(results.probes(name, BASE))
        if not probes:
            continue
        optimum = {form: mean([p["optimum"][form] for p in probes]) for form in ("norm", "signed", "matrix", "matrix_biased")}
        least = [p["betas"][min(range(len(p["error"])), key=p["error"].__getitem__)] for p in probes]
        rows.append(
            [
                name,
                *(
                    shown(ratio(results.probed(name, BASE, part, 0), results.probed(name, BASE, part, 1)))
                    for part in ("trace", "noise", "error")
                ),
                *(f"{found.mean:.2f}" for found in optimum.values() if found),
                " ".join(f"{beta:g}" for beta in least),
            ]
        )
    header = [
        "beta 0 over beta 1",
        "Tr Cov",
        "its noise part",
        "residual error",
        "|kappa|",
        "signed",
        "matrix",
        "matrix with bias",
        "least error at",
    ]
    yield from table(header, rows)


def section(run: Path) -> Iterator[str]:
    """Everything about one run."""
    results = Results.read(run)
    ids = list(dict.fromkeys(line["id"] for line in read_json(run / "sweep.json")["lines"]))
    yield from (f"## {run.name}", "", described(run), "")
    for weights in ("ema", "raw"):
        yield from quality(results, ids, weights)
    yield from variance(results)
    floors = [f"{name} {sum(found) / len(found):.4f}" for name in results.sets if (found := results.floor(name))]
    yield from (f"Floor of SW1 (fresh data against fresh data): {', '.join(sorted(floors))}.", "")


def main() -> None:
    """Write results.md and pack the records."""
    runs, study = map(Path, sys.argv[1:3])
    lines = ["# Results", "", "Generated by `python studies/summarise.py`; a star marks an interval that excludes 1.", ""]
    for run in sorted((p for p in runs.iterdir() if (p / "records.jsonl").exists()), key=lambda p: (p / "sweep.json").stat().st_mtime):
        if (read_json(run / "sweep.json")["study"] == "toy") == (study.name == "plane"):
            packed(run, study)
            lines += section(run)
    (study / "results.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
