"""What a study is made of: configuration, arms, seeds, moments; what it costs, and what it may go on with."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from meanstep.program.console import UserError
from meanstep.program.reproduce import study as engine
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT, Arm
from meanstep.program.reproduce.records import Record
from meanstep.program.runs.config import Config, flag, from_yaml
from meanstep.program.runs.options import flat

if TYPE_CHECKING:
    from meanstep.program.data.cache import Cache
    from meanstep.program.reproduce.images.jobs import Job

FURTHER = 1.5
"""Constant coefficients train on for at most this factor, to where they have spent what a dearer arm spends."""
DECIDED = ("seed", "sample_every", "evaluate_every", "save_every", "keep", "evaluate_count")
"""Entries of `run` that a study decides for each of its runs, or has no use for."""
FREE = {("run", "device"), ("run", "seed"), ("run", "log_every"), ("run", "loggers"), ("data", "source")}
"""Entries that may change when a study goes on."""


@dataclass(frozen=True)
class Sizes:
    """What a measurement takes; the defaults are for small images on a CPU.

    `count`, `steps`: samples of a distance, and steps of the sampler; `rows`: of the parabola; `times`, `rows_at`: of the loss over t;
    `references`: most rows of the data behind the center "data".
    """

    count: int = 2048
    steps: tuple[int, ...] = (1, 2, 4)
    rows: int = 2048
    times: int = 10
    rows_at: int = 256
    references: int = 20_000


@dataclass(frozen=True)
class Compute:
    """Rows through a network for one row of training: passes forward, passes backward, tangents."""

    forwards: float
    backwards: float
    tangents: float

    @property
    def passes(self) -> float:
        """In passes forward: a pass backward counts two, a tangent one."""
        return self.forwards + 2 * self.backwards + self.tangents


@dataclass(frozen=True)
class Study(engine.Study):
    """`config`: what all arms share; `moments`: how often each is measured; `compute`: of each arm, by name; `part`: K/N,
    whose runs are done here.

    Once it has joined its folder: `asked`, the runs that were ever asked for; `todo`, those now; `data`, `floor`: entries of study.json;
    `rows`: the cache that is trained on.
    """

    config: Config
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    moments: int
    sizes: Sizes
    compute: dict[str, Compute]
    part: str | None = None
    asked: tuple[tuple[str, int], ...] = ()
    todo: "tuple[Job, ...]" = ()
    data: Record = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    rows: Path = Path()
    name: str = "latents"
    kind: ClassVar = KIND

    @property
    def title(self) -> str:
        """How many runs."""
        return f"{len(self.todo)} runs"

    @property
    def spacing(self) -> int:
        """Samples between two measurements: a whole number of batches."""
        batch = self.config.run.batch
        return math.ceil(self.config.run.samples / self.moments / batch) * batch

    def samples(self, arm: Arm) -> int:
        """Samples that an arm sees in all. A constant coefficient needs no end, so it trains on to where dearer arms can be met."""
        if arm.family not in (CONSTANT, ANCHORED) or self.config.optimiser.schedule != "constant":
            return self.spacing * self.moments
        own = self.compute[arm.name].passes
        others = [self.compute[a.name].passes / own for a in self.arms]
        return self.spacing * math.ceil(self.moments * max([1.0, *(f for f in others if f <= FURTHER)]) - 1e-9)

    def run(self, arm: Arm, seed: int) -> Config:
        """The configuration of one run."""
        every = self.spacing
        run = dataclasses.replace(
            self.config.run, seed=seed, keep=1, samples=self.samples(arm), evaluate_every=every, save_every=every, sample_every=2**62
        )
        return dataclasses.replace(self.config, method=arm.of(self.config.method), run=run)

    def stated(self, about: Record | None) -> Record:
        """Sizes and configuration, by option."""
        config = held_config(about) if about else self.config
        sizes = {("measure", name): value for name, value in (about or self._settings())["settings"].items()}
        entries = sizes | {entry: value for entry, value in flat(config).items() if entry not in FREE}
        named = {"--moments" if name == "moments" else flag(part, name): value for (part, name), value in entries.items()}
        found: Record = json.loads(json.dumps(named))
        return found

    def _settings(self) -> Record:
        return {"settings": {"moments": self.moments, **asdict(self.sizes)}}

    def joined(self, here: Path) -> "Study":
        """With the arms and seeds that the folder has, and the floor."""
        from meanstep.program.reproduce.images import jobs

        return jobs.joined(self, here)

    def described(self) -> Record:
        """What study.json holds."""
        arms = [asdict(arm) | {"samples": self.samples(arm), "compute": asdict(self.compute[arm.name])} for arm in self.arms]
        return {
            "study": self.name,
            "version": KIND.version,
            **self._settings(),
            "config": asdict(self.config),
            "data": self.data,
            "extractor": self.config.run.extractor,
            "floor": self.floor,
            "seeds": list(self.seeds),
            "asked": sorted(self.asked),
            "moments": [self.spacing * (k + 1) for k in range(self.moments)],
            "arms": arms,
        }

    def left(self, here: Path) -> "Sequence[Job]":
        """Runs that are asked for now and are not at their end."""
        from meanstep.program.reproduce.images import jobs

        return [job for job in self.todo if jobs.seen(job, here) < self.samples(job.arm)]

    def cost(self, job: "Job | None") -> float:
        """In rows passed forward through a network."""
        return sum(self.compute[j.arm.name].passes * self.samples(j.arm) for j in ([job] if job else self.todo))

    def do(self, job: "Job", here: Path, tell: engine.Tell, device: str) -> tuple[str, list[Record]]:
        """Train and measure one run."""
        from meanstep.program.reproduce.images import jobs

        return jobs.told(job, self, here, tell, device), []

    def remarks(self, found: Mapping[str, str], here: Path) -> list[str]:
        """Runs that others are at, and those that broke off."""
        from meanstep.program.reproduce.images import jobs

        return jobs.remarks(self, found, here)


def held_arms(found: Record) -> list[Arm]:
    """The arms of a study.json."""
    return [Arm(**{f.name: entry.get(f.name) for f in dataclasses.fields(Arm)}) for entry in found["arms"]]


def held_config(found: Record) -> Config:
    """The configuration of a study.json."""
    return from_yaml(json.dumps(found["config"]), KIND.file)


def completed(study: Study, before: Record | None, cache: "Cache", where: Path) -> Study:
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


def _counted(study: Study, arms: tuple[Arm, ...], cache: "Cache") -> Study:
    from meanstep.program.reproduce.images.compute import counted

    compute = dict(study.compute)
    for arm in arms:
        if arm.name not in compute:
            try:
                compute[arm.name] = counted(dataclasses.replace(study.config, method=arm.of(study.config.method)), cache)
            except UserError as error:
                raise UserError(f"the arm {arm.name}: {error}") from error
    return dataclasses.replace(study, arms=arms, compute=compute)


def parted(part: str | None) -> tuple[int, int]:
    """K and N of `K/N`, 1 and 1 of None; `UserError` for another word."""
    k, _, n = (part or "1/1").partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UserError(f"--part: K/N with 1 <= K <= N, such as 2/8, got {part!r}")
    return int(k), int(n)
