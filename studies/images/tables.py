"""results.md from the records of this study: python studies/images/tables.py [RUNS], which first copies the records of fresh runs."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = ("config.yaml", "env.json", "records.jsonl", "evaluations.jsonl")
HEAD = "| run | samples seen | steps | distance | precision | recall | count |\n|---|---|---|---|---|---|---|\n"


def copy(runs: Path) -> None:
    """The small files of every run."""
    for run in sorted(path.parent for path in runs.glob("*/evaluations.jsonl")):
        (HERE / "records" / run.name).mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(run / name, HERE / "records" / run.name / name)


def line(run: str, row: dict[str, Any]) -> str:
    """A row of the table; the last of a run is that of held-out images."""
    values = row["values"]
    half = f" ± {values['frechet'] - values['frechet_low']:.2g}" if "frechet_low" in values else ""
    shown = [f"{values[name]:.3f}" if name in values else "" for name in ("precision", "recall")]
    seen = f"{row['seen']:,}" if row.get("seen") is not None else str(row.get("name", row["kind"]))
    return f"| {run} | {seen} | {row.get('steps') or ''} | {values['frechet']:.3g}{half} | {' | '.join(shown)} | {values['count']:,} |\n"


def main() -> None:
    if len(sys.argv) > 1:
        copy(Path(sys.argv[1]))
    text = "# Results\n\nMade of the records by `tables.py`. Intervals: 95 percent over blocks of seeds of one run's samples.\n\n" + HEAD
    for path in sorted((HERE / "records").glob("*/evaluations.jsonl")):
        rows = [json.loads(entry) for entry in path.read_text(encoding="utf-8").splitlines()]
        text += "".join(line(path.parent.name, row) for row in rows)
    text += "\nSeconds of training, and the best distance of an evaluation on the way, whatever its steps:\n\n"
    text += "| run | seconds | best |\n|---|---|---|\n"
    for path in sorted((HERE / "records").glob("*/records.jsonl")):
        rows = [json.loads(entry) for entry in path.read_text(encoding="utf-8").splitlines()]
        speeds = [128 / row["samples_per_second"] for row in rows if row["kind"] == "train"]
        best = min(min(row["steps"].values()) for row in rows if row["kind"] == "evaluation")
        seen = max(row["seen"] for row in rows if row["kind"] == "train")
        text += f"| {path.parent.name} | {sum(speeds) / len(speeds) * seen / 128:.0f} | {best:.3g} |\n"
    (HERE / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
