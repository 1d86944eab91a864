"""results.md from the records of this study: python studies/latents/tables.py [RUNS], which first copies the records of fresh runs.

A report of a study is made of the same files: `python studies/packs.py studies/latents/records/NAME FOLDER`, then `meanstep report FOLDER`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import with_interval
from meanstep.program.reproduce.images.contests import contests
from meanstep.program.reproduce.images.quantities import TERMS
from meanstep.program.reproduce.images.results import Arm, Results
from meanstep.program.reproduce.report.page import spoken

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from packs import pack, unpacked  # noqa: E402

NAMES = {
    "digits": "Digits, MeanFlow's adaptive weight",
    "squared": "Digits, plain squared error everywhere",
    "cifar": "CIFAR-10's TAESD latents, MeanFlow's adaptive weight",
}


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
        for run in (Path(sys.argv[1]) / name for name in NAMES):
            if (run / "study.json").exists():
                pack(run, HERE / "records" / run.name, digits=6)
    text = "# Results\n\nMade of the records by `tables.py`. Intervals: 95 percent, over seeds.\n\n"
    for name in NAMES:
        if not (here := HERE / "records" / name).is_dir():
            continue
        with unpacked(here) as folder:
            text += section(name, folder)
    (HERE / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
