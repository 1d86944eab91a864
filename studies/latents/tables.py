"""results.md from the records of this study: python studies/latents/tables.py [RUNS], which first copies the records of fresh runs.

A report of a study is made of the same files: gunzip records/NAME/records.jsonl.gz, then meanstep report studies/latents/records/NAME.
"""

import gzip
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import with_interval
from meanstep.program.reproduce.images.contests import contests
from meanstep.program.reproduce.images.quantities import TERMS
from meanstep.program.reproduce.images.results import Arm, Results
from meanstep.program.reproduce.report.page import spoken

HERE = Path(__file__).parent
NAMES = {
    "digits": "Digits, MeanFlow's adaptive weight",
    "squared": "Digits, plain squared error everywhere",
    "cifar": "CIFAR-10's TAESD latents, MeanFlow's adaptive weight",
}


def copy(runs: Path) -> None:
    """The small files of every study, numbers to six digits; the command without the folders of the machine it ran on."""
    for run in sorted(runs / name for name in NAMES if (runs / name / "study.json").exists()):
        into = HERE / "records" / run.name
        into.mkdir(parents=True, exist_ok=True)
        lines = [line for path in sorted(run.glob("runs/*/measures.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
        rounded = (json.dumps(json.loads(line, parse_float=lambda x: float(f"{float(x):.6g}"))) for line in lines)
        (into / "records.jsonl.gz").write_bytes(gzip.compress(("\n".join(rounded) + "\n").encode(), mtime=0))
        for name in ("study.json", "env.json"):
            text = (run / name).read_text(encoding="utf-8")
            (into / name).write_text(re.sub(r"(/[\w.-]+)+/([\w.-]+)", r"\2", text), encoding="utf-8")


def distances(results: Results, arm: Arm) -> str:
    """A row: EMA and raw weights, mean and half of the 95 percent interval over seeds."""
    cells = []
    for weights in ("ema", "raw"):
        for steps in ("1", "2", "4"):
            found = mean(results.distance(arm, results.end, weights, steps).values())
            half = f" ± {found.mean - found.low:.2f}" if found and found.low is not None else ""
            cells.append(f"{found.mean:.2f}{half}" if found else "")
    return f"| {arm.name} | {' | '.join(cells)} |\n"


def tried(results: Results, terms: str) -> Iterator[str]:
    """A row a schedule or recipe: its ratio to every constant in one step, and the p-value of beating all of them, after Holm."""
    for contest in contests(results, terms):
        against = [with_interval(change) if change.n else "" for change in contest.changes.values()]
        p = f"{contest.p_better:.3g}" if contest.p_better is not None else ""
        yield f"| {contest.arm.name} | {' | '.join(against)} | {p} |\n"


def section(name: str, folder: Path) -> str:
    """All of one study."""
    results = Results.read(folder)
    text = f"## {NAMES[name]}\n\n" + "".join(f"- {line.strip()}\n" for line in spoken(folder))
    text += f"\nDistances at {results.end:,} samples seen, in 1, 2 and 4 steps:\n\n| arm | EMA 1 | 2 | 4 | raw 1 | 2 | 4 |\n"
    text += "|---" * 7 + "|\n"
    text += "".join(distances(results, arm) for arm in results.arms)
    constants = [arm.name for arm in results.constants]
    for terms in TERMS:
        text += f"\nOne step, ratio to every constant {terms}, and p of beating all of them:\n\n| arm | {' | '.join(constants)} | p |\n"
        text += "|---" * (len(constants) + 2) + "|\n" + "".join(tried(results, terms))
    return text + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        copy(Path(sys.argv[1]))
    text = "# Results\n\nMade of the records by `tables.py`. Intervals: 95 percent, over seeds.\n\n"
    for name in NAMES:
        if not (here := HERE / "records" / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(here, Path(scratch) / name))
            (folder / "records.jsonl").write_bytes(gzip.decompress((here / "records.jsonl.gz").read_bytes()))
            text += section(name, folder)
    (HERE / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
