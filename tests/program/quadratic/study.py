"""What is trained: `x <- x - beta a (x - seed)` from 0 on `a (x - seed)^2 / 2`, so that after n steps `x = seed (1 - (1 - beta a)^n)`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from meanstep.program.disk import folder, write
from meanstep.program.reproduce import records
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.study import DONE, Stopped, Study, Tell

from . import KIND

CURVATURES = {"flat": 0.5, "steep": 1.5}


@dataclass(frozen=True)
class Job:
    """All coefficients of a set and seed."""

    set: str
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.set}-{self.seed}"


@dataclass(frozen=True)
class Quadratic(Study):
    """Every coefficient on every parabola."""

    seeds: tuple[int, ...]
    betas: tuple[float, ...] = (0.1, 0.5)
    steps: int = 4
    name: str = "quadratic"
    kind: ClassVar = KIND

    @property
    def title(self) -> str:
        """How many."""
        return f"{len(self.seeds) * len(self.betas) * len(CURVATURES)} descents"

    def stated(self, about: Record | None) -> Record:
        """Coefficients and steps; seeds may be added."""
        found: Record = about["settings"] if about else {"sets": list(CURVATURES), "betas": self.betas, "steps": self.steps}
        return {name: value for name, value in found.items() if name != "seeds"}

    def described(self) -> Record:
        """The file."""
        lines = [{"arm": "descent", "beta": beta, "id": f"beta {beta:g}"} for beta in self.betas]
        return {"study": self.name, "version": 1, "settings": self.stated(None) | {"seeds": self.seeds}, "lines": lines}

    def left(self, here: Path) -> list[Job]:
        """Sets and seeds without all their records."""
        done = [(r["set"], r["seed"]) for r in records.load(here, KIND)]
        return [Job(name, seed) for seed in self.seeds for name in CURVATURES if done.count((name, seed)) < len(self.betas)]

    def cost(self, job: Job | None) -> float:
        """In steps."""
        return float(self.steps * len(self.betas) * (1 if job else len(self.seeds) * len(CURVATURES)))

    def do(self, job: Job, here: Path, tell: Tell, device: str) -> tuple[str, list[Record]]:
        """Descend, with a state after each step."""
        state = here / "state" / f"{job.name}.json"
        at: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {"step": 0, "x": [0.0] * len(self.betas)}
        tell("resumed", float(at["step"] * len(self.betas)))
        folder(state.parent)
        while at["step"] < self.steps:
            x = [x - beta * CURVATURES[job.set] * (x - job.seed) for x, beta in zip(at["x"], self.betas, strict=True)]
            at = {"step": at["step"] + 1, "x": x}
            write(state, json.dumps(at))
            tell("steps", float(len(self.betas)))
            if tell("stop?"):
                raise Stopped
        made = [
            {"kind": "model", "set": job.set, "seed": job.seed, "id": f"beta {b:g}", "value": x}
            for b, x in zip(self.betas, at["x"], strict=True)
        ]
        return DONE, made


def known(record: Record, steps: int = 4) -> float:
    """The value of a record in closed form."""
    beta = float(record["id"].removeprefix("beta "))
    value: float = record["seed"] * (1 - (1 - beta * CURVATURES[record["set"]]) ** steps)
    return value
