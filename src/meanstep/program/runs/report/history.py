"""What a run's folder tells of the run: read once, asked by figures and page. Draws nothing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.manifest import Manifest
from meanstep.program.evaluation import rows
from meanstep.program.inside import inside
from meanstep.program.runs import saved
from meanstep.program.runs.config import Config
from meanstep.program.runs.integrity import read as entries
from meanstep.program.runs.records import Record, load

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class History:
    """`records`: of records.jsonl; `cells`: of evaluations.jsonl; `manifest`: of the data, None if data.json is not there."""

    folder: Path
    config: Config
    manifest: Manifest | None
    environment: dict[str, Any]
    records: list[Record]
    cells: list[rows.Row]

    def of(self, kind: str) -> list[Record]:
        """The records of a kind, in order."""
        return [record for record in self.records if record.get("kind") == kind]

    @cached_property
    def seen(self) -> int:
        """Samples that the run has seen."""
        return max((record["seen"] for record in self.records), default=0)

    @property
    def finished(self) -> bool:
        """Whether it is at its end."""
        return self.seen >= self.config.run.samples

    @cached_property
    def resumed(self) -> list[int]:
        """Where it went on after a stop."""
        return [record["seen"] for record in self.of("start") if record["seen"]]

    @cached_property
    def seconds(self) -> float:
        """Training time, evaluations and checkpoints apart, over all starts."""
        whole = last = 0.0
        for record in self.records:
            if record.get("kind") == "start":
                whole, last = whole + last, 0.0
            last = float(record.get("seconds") or last) if record.get("kind") == "train" else last
        return whole + last

    def curve(self, name: str) -> Curve:
        """A metric over samples seen, where it has a value."""
        found = [(record["seen"], record[name]) for record in self.of("train") if isinstance(record.get(name), int | float)]
        x, y = np.array(found, dtype=float).reshape(-1, 2).T
        return x, y

    @property
    def measure(self) -> str:
        """What the distances of its evaluations are, as a sentence begins."""
        name = str((self.of("evaluation") or [{}])[-1].get("measure", "Frechet distance"))
        return name[:1].upper() + name[1:]

    @property
    def floor(self) -> float | None:
        """What rows of the data score, if the evaluations say so."""
        found = (self.of("evaluation") or [{}])[-1].get("floor")
        return float(found) if isinstance(found, int | float) else None

    def distances(self) -> dict[int, Curve]:
        """Distances over samples seen, by number of steps."""
        found: dict[int, list[tuple[float, float]]] = {}
        for record in self.of("evaluation"):
            for steps, value in record["steps"].items():
                if isinstance(value, int | float):
                    found.setdefault(int(steps), []).append((record["seen"], value))
        return {steps: (np.array(points)[:, 0], np.array(points)[:, 1]) for steps, points in sorted(found.items())}

    @cached_property
    def best(self) -> Record | None:
        """The evaluation with the least distance in the steps that tell it."""
        return self._least(self.by)

    @cached_property
    def by(self) -> str:
        """The steps by which the best checkpoint is told: as the records say, of older ones the fewest by which the one kept is the best."""
        found = self.of("evaluation")
        stated, kept = [r["by"] for r in found if r.get("by")], [r for r in found if r.get("best")]
        steps = sorted({steps for r in found for steps in r["steps"]}, key=int)
        decided: list[str] = [*stated[-1:], *(k for k in steps if kept and self._least(k) is kept[-1]), *steps, "1"]
        return decided[0]

    @property
    def made(self) -> str:
        """What its samples are called, made in these steps."""
        return "one-step samples" if self.by == "1" else f"{self.by}-step samples"

    def far(self, evaluation: Record) -> Any:
        """The distance in these steps, None if it was not finite."""
        return evaluation["steps"].get(self.by)

    def _least(self, steps: str) -> Record | None:
        valued = [r for r in self.of("evaluation") if isinstance(r["steps"].get(steps), int | float)]
        return min(valued, key=lambda r: r["steps"][steps], default=None)


def judged(evaluation: Record) -> Any:
    """The distance in the steps by which the best checkpoint is told, of an older record the fewest; None if it was not finite."""
    steps = evaluation.get("steps")
    return steps[evaluation.get("by") or min(steps, key=int)] if steps else None


def read(folder: Path) -> History:
    """The history of a run's folder; `UserError` if it holds no run, or a damaged file."""
    config = saved.held(folder)
    if config is None:
        raise UserError(f"{folder} holds no {saved.CONFIG}: give the folder of a run of `meanstep train`")
    manifest = Manifest.read(folder / saved.MANIFEST) if (folder / saved.MANIFEST).is_file() else None
    return History(folder, config, manifest, _environment(inside(folder, "env.json")), load(folder / "records.jsonl"), rows.load(folder))


def _environment(path: Path | None) -> dict[str, Any]:
    return {} if path is None or not path.is_file() else entries(path, "remove it: the page goes without it")
