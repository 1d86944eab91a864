"""What a study is made of: configuration, arms, seeds, moments; and how it says so in its file."""

import dataclasses
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from meanstep.program.errors import UserError, shown
from meanstep.program.ranges import Count, Ranged, Rows, natural, ranged
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images import protocol as protocols
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT, Arm
from meanstep.program.reproduce.records import Record
from meanstep.program.runs.config import Config, from_yaml

FURTHER = 1.5
"""Constant coefficients train on for at most this factor, to where they have spent what a dearer arm spends."""
DECIDED = ("seed", "sample_every", "evaluate_every", "save_every", "keep", "evaluate_count")
"""Entries of `run` that a study decides for each of its runs, or has no use for."""


@dataclass(frozen=True)
class Sizes(Ranged):
    """What a measurement takes; the defaults are for small images on a CPU.

    `count`, `steps`: samples of a distance, and steps of the sampler; `rows`: of the parabola; `times`, `rows_at`: of the loss over t;
    `references`: most rows of the data behind the center "data".
    """

    PREFIX = "measure."

    count: Annotated[int, ranged("INT from 2 to 10000000")] = 2048
    steps: Annotated[tuple[int, ...], ranged("[INT from 1 to 100000 ...]")] = (1, 2, 4)
    rows: Rows = 2048
    times: Annotated[int, ranged("INT from 1 to 100000")] = 10
    rows_at: Rows = 256
    references: Count = 20_000


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
class Job:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, and of its grid of samples."""
        return f"{self.arm.name}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """`config`: what all arms share; `moments`: how often each is measured; `compute`: of each arm, by name; `part`: K/N,
    whose runs are done here; `protocol`: whose settings they have.

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
    protocol: str = protocols.OURS
    asked: tuple[tuple[str, int], ...] = ()
    todo: tuple[Job, ...] = ()
    data: Record = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    rows: Path = Path()
    name: str = "latents"

    @property
    def spacing(self) -> int:
        """Samples between two measurements: a whole number of batches."""
        batch = self.config.run.batch
        return math.ceil(self.config.run.samples / self.moments / batch) * batch

    def samples(self, arm: Arm) -> int:
        """Samples that an arm sees in all. A constant coefficient needs no end, so it trains on to where dearer arms can be met.

        Under the authors' protocol all arms see as many: equal steps are what they compare.
        """
        free = arm.family in (CONSTANT, ANCHORED) and self.config.optimiser.schedule == "constant"
        if not free or self.protocol == protocols.AUTHORS:
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

    @property
    def jobs(self) -> list[Job]:
        """Every arm with every seed."""
        return [Job(arm, seed) for seed in self.seeds for arm in self.arms]

    def settings(self) -> Record:
        """Its entry "settings"."""
        theirs = {"deviations": protocols.deviations(self.config)} if self.protocol == protocols.AUTHORS else {}
        return {"settings": {"protocol": self.protocol, **theirs, "moments": self.moments, **asdict(self.sizes)}}

    def described(self) -> Record:
        """What study.json holds."""
        arms = [asdict(arm) | {"samples": self.samples(arm), "compute": asdict(self.compute[arm.name])} for arm in self.arms]
        return {
            "study": self.name,
            "version": KIND.version,
            **self.settings(),
            "config": asdict(self.config),
            "data": self.data,
            "extractor": self.config.run.extractor,
            "floor": self.floor,
            "seeds": list(self.seeds),
            "asked": sorted(self.asked),
            "moments": [self.spacing * (k + 1) for k in range(self.moments)],
            "arms": arms,
        }


def held_arms(found: Record) -> list[Arm]:
    """The arms of a study.json; `UserError` for a method or numbers that none can have."""
    arms = [Arm(**{f.name: entry[f.name] for f in dataclasses.fields(Arm) if f.name in entry}) for entry in found["arms"]]
    for arm, entry in zip(arms, found["arms"], strict=True):
        counted = {name for name, value in entry["compute"].items() if isinstance(value, int | float)}
        if counted != {*entry["compute"]} or counted != {f.name for f in dataclasses.fields(Compute)}:
            raise UserError(f"{KIND.file} is damaged: the numbers of arm {arm.name!r} are none: choose another folder with --out")
        method = {"recipe": arm.recipe, "options": arm.options, **arm.method}
        from_yaml(json.dumps({"method": method}), f"{KIND.file}, {arm.name}")
    return arms


def held_sizes(found: Record) -> Sizes:
    """The sizes of the measurements of a study.json."""
    kept = {f.name: found["settings"][f.name] for f in dataclasses.fields(Sizes) if f.name in found["settings"]}
    return Sizes(**kept | {"steps": tuple(kept["steps"])})


def held_config(found: Record) -> Config:
    """The configuration of a study.json."""
    return from_yaml(json.dumps(found["config"]), KIND.file)


def parted(part: str | None) -> tuple[int, int]:
    """K and N of `K/N`, 1 and 1 of None; `UserError` for another word."""
    k, n = (natural(word) or 0 for word in (part or "1/1").partition("/")[::2])
    if not 1 <= k <= n:
        raise UserError(f"--part: K/N with 1 <= K <= N, such as 2/8, got {shown(part)}")
    return k, n
