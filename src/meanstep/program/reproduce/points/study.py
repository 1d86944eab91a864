"""The study of a sweep: which models of which sets and seeds, what is left of them, and how long it takes."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from meanstep.program.reproduce import records
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.points.jobs import Job, describe, train
from meanstep.program.reproduce.points.protocols import protocol
from meanstep.program.reproduce.points.settings import MEASURING, SET_COST, Settings
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.study import DONE, Study, Tell, held


@dataclass(frozen=True)
class Sweep(Study):
    """A study of all sets, seeds and models of the settings; `name`: toy or mixtures."""

    name: str
    settings: Settings
    kind: ClassVar = KIND

    @property
    def title(self) -> str:
        """How many models."""
        return f"{len(self.settings.sets) * len(self.settings.seeds) * len(self.settings.specs())} models"

    def stated(self, about: Record | None) -> Record:
        """All settings but the seeds, which may grow; one that an older file has not was what is its default now.

        Points are the same by their digest, wherever their file lies.
        """
        since = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
        found = dict(asdict(self.settings) if about is None else since | about["settings"])
        del found["seeds"]
        if found["digest"]:
            del found["points"]
        return {"protocol": found["protocol"], **found}  # what everything else follows from is named first

    def described(self) -> Record:
        """What sweep.json holds."""
        lines = [{"arm": arm, "beta": beta, "id": spec.id} for arm, beta, spec in self.settings.lines()]
        return {"study": self.name, "settings": {"protocol": self.settings.protocol, **asdict(self.settings)}, "lines": lines}

    def joined(self, here: Path) -> "Sweep":
        """With the seeds that the folder has already, first: the samples that are kept are those of the first."""
        before = (held(here, KIND) or {}).get("settings", {}).get("seeds", [])
        return replace(self, settings=replace(self.settings, seeds=tuple(dict.fromkeys([*before, *self.settings.seeds]))))

    def left(self, here: Path) -> list[Job]:
        """Sets without their own record, then pairs of set and seed without all their models."""
        settings, found = self.settings, records.load(here, KIND)
        described = {r["set"] for r in found if r["kind"] == "set"}
        done = {(r["set"], r["seed"], r["id"]) for r in found if r["kind"] == "model"}
        ids = {spec.id for spec in settings.specs()}
        groups: dict[Any, list[tuple[str, int]]] = {}
        for pair in [(data, seed) for seed in settings.seeds for data in settings.sets]:
            if not all((*pair, name) in done for name in ids):
                groups.setdefault(protocol(settings).law(pair[0], settings).dim if settings.ensemble else pair, []).append(pair)
        sets = [Job(((data, 0),), models=False) for data in settings.sets if data not in described]
        return sets + [Job(tuple(group)) for group in groups.values()]

    def cost(self, job: Job | None) -> float:
        """In steps of plain MeanFlow."""
        settings = self.settings
        pair = sum(settings.steps * spec.cost + MEASURING for spec in settings.specs())
        if job is None:
            return len(settings.sets) * (len(settings.seeds) * pair + SET_COST)
        return pair * len(job.pairs) if job.models else SET_COST

    def do(self, job: Job, here: Path, tell: Tell, device: str) -> tuple[str, list[Record]]:
        """Train and measure all models of a set and seed, or describe a set."""
        if job.models:
            return DONE, train(job, self.settings, here, tell, device)
        record = describe(job.pairs[0][0], self.settings)
        tell("steps", SET_COST)
        return DONE, [record]
