"""A study as the engine takes it: what its folder has, what is left to do, and who does it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from meanstep.metrics import frechet
from meanstep.program.console import UserError
from meanstep.program.data.cache import Cache
from meanstep.program.machine import available
from meanstep.program.reproduce import study as engine
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT, Arm
from meanstep.program.reproduce.images.compute import counted
from meanstep.program.reproduce.images.jobs import ENDLESS, opened, seen, told
from meanstep.program.reproduce.images.protocol import OURS
from meanstep.program.reproduce.images.settings import Compute, Job, Plan, held_arms, held_config, parted
from meanstep.program.reproduce.records import Record
from meanstep.program.runs.config import flag
from meanstep.program.runs.options import flat
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import Nothing, Samples, against_data, distance

T = TypeVar("T", bound=Plan)
FREE = {("run", "device"), ("run", "seed"), ("run", "log_every"), ("run", "loggers"), ("data", "source")}
"""Entries that may change when a study goes on."""


@dataclass(frozen=True)
class Study(Plan, engine.Study):
    """A plan that is carried out."""

    kind: ClassVar = KIND

    @property
    def title(self) -> str:
        """How many runs."""
        return f"{len(self.todo)} runs"

    def stated(self, about: Record | None) -> Record:
        """Sizes and configuration, by option."""
        config = held_config(about) if about else self.config
        settings = dict((about or self.settings())["settings"])
        named = {"--protocol": settings.pop("protocol", OURS), "--moments": settings.pop("moments")}
        settings.pop("deviations", None)  # the configuration says them
        entries = {("measure", name): value for name, value in settings.items()}
        entries |= {entry: value for entry, value in flat(config).items() if entry not in FREE}
        named |= {flag(part, name): value for (part, name), value in entries.items()}
        found: Record = json.loads(json.dumps(named))
        return found

    def joined(self, here: Path) -> "Study":
        """With what its folder has, the floor, and what is to do."""
        cache, before, mine = opened(self.rows), engine.held(here, KIND) or {}, self.jobs
        whole = completed(self, before or None, cache, here)
        asked = {*((job.arm.name, job.seed) for job in mine), *((arm, seed) for arm, seed in before.get("asked", []))}
        floor = before.get("floor") or self._floor(cache, here)
        return dataclasses.replace(whole, floor=floor, asked=tuple(asked), todo=whole.share(mine, here))

    def share(self, mine: Sequence[Job], here: Path) -> tuple[Job, ...]:
        """Its own part of the runs `mine` that were asked for, and of those that go on; of a study that is `completed`.

        Runs of constant coefficients that were at their end before a dearer arm came go on.
        """
        constants = [job for job in self.jobs if job.arm.family in (CONSTANT, ANCHORED) and job not in mine]
        longer = [job for job in constants if 0 < seen(job, here) < self.samples(job.arm)]
        k, n = parted(self.part)
        return tuple([*mine, *longer][k - 1 :: n])

    def _floor(self, cache: Cache, here: Path) -> dict[str, float]:
        """The distance of one half of the data to the other, and that of noise, as many samples of it as of a network."""
        samples = Samples.of(self.config, cache, here, Ranks(0, 1, available(self.config.run.device)))
        against = against_data(samples)
        return {"1": frechet(*against.halves), "noise": distance(samples, Nothing(), against, range(self.sizes.count), 1, "walk")}

    def left(self, here: Path) -> list[Job]:
        """Runs that are asked for now and are not at their end."""
        return [job for job in self.todo if seen(job, here) < self.samples(job.arm)]

    def cost(self, job: Job | None) -> float:
        """In rows passed forward through a network."""
        return sum(self.compute[j.arm.name].passes * self.samples(j.arm) for j in ([job] if job else self.todo))

    def do(self, job: Job, here: Path, tell: engine.Tell, device: str) -> tuple[str, list[Record]]:
        """Train and measure one run."""
        return told(job, self, here, tell, device), []

    def failed(self, here: Path) -> list[str]:
        """Runs whose loss was not finite."""
        return [job.name for job in self.jobs if seen(job, here) == ENDLESS]

    def remarks(self, found: Mapping[str, str], here: Path) -> list[str]:
        """Runs that other processes are at, and those that broke off."""
        busy = [name for name, what in found.items() if what == engine.ELSEWHERE]
        lines = [f"{name}: another process is at work on it; the report has what is measured so far" for name in busy]
        return lines + [f"{name}: its loss was not finite; runs/{name}/measures.jsonl says where" for name in self.failed(here)]


def completed(study: T, before: Record | None, cache: "Cache", where: Path) -> T:
    """The study with the arms and seeds that its folder has already, all counted; `UserError` for other data, or another arm of a name."""
    manifest = cache.manifest
    about = {"name": manifest.source, "rows": len(cache), "shape": list(cache.shape), "classes": len(cache.classes)}
    study = dataclasses.replace(study, rows=cache.path, data=about | {"digest": manifest.digest})
    if before is None:
        return _counted(study, study.arms, cache)
    if (digest := before["data"].get("digest", manifest.digest)) != manifest.digest:
        remedy = "choose another folder with --out, or give the data that it has"
        raise UserError(f"{where} holds a study on other data ({before['data']['name']}, {digest[:12]}) than --data.source: {remedy}")
    old = held_arms(before)
    arms = {arm.name: arm for arm in old} | {arm.name: arm for arm in study.arms}
    for arm in old:
        if arm != arms[arm.name] and arm.of(study.config.method) != arms[arm.name].of(study.config.method):
            raise UserError(f"{where} holds an arm {arm.name} with other options: give this one another name, or choose another --out")
    known = {entry["name"]: Compute(**entry["compute"]) for entry in before["arms"]}
    seeds = tuple(sorted({*before["seeds"], *study.seeds}))
    return _counted(dataclasses.replace(study, seeds=seeds, compute=known), tuple(arms.values()), cache)


def _counted(study: T, arms: tuple[Arm, ...], cache: "Cache") -> T:
    compute = dict(study.compute)
    for arm in arms:
        if arm.name not in compute:
            try:
                compute[arm.name] = counted(dataclasses.replace(study.config, method=arm.of(study.config.method)), cache)
            except UserError as error:
                raise UserError(f"the arm {arm.name}: {error}") from error
    return dataclasses.replace(study, arms=arms, compute=compute)
