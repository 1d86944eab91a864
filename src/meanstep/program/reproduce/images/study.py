"""What a study is made of: configuration, arms, seeds, moments; and its folder, which belongs to it. Trains nothing."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError
from meanstep.program.disk import clean, foreign, lock, made, write
from meanstep.program.machine import environment
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT, Arm
from meanstep.program.reproduce.images.records import STUDY, VERSION, held
from meanstep.program.reproduce.images.sizes import Compute, Sizes
from meanstep.program.runs.config import Config, flag, from_yaml
from meanstep.program.runs.options import flat

if TYPE_CHECKING:
    from meanstep.program.data.cache import Cache

FURTHER = 1.5
"""Constant coefficients train on for at most this factor, to where they have spent what a dearer arm spends."""


@dataclass(frozen=True)
class Study:
    """`config`: what all arms share; `moments`: how often each is measured; `compute`: of each arm, by name."""

    config: Config
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    moments: int
    sizes: Sizes
    compute: dict[str, Compute]

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

    def described(self, cache: "Cache", floor: dict[str, float], asked: Collection[tuple[str, int]]) -> dict[str, Any]:
        """What study.json holds; `asked`: the runs that it is to have, arm and seed."""
        return {
            "study": "latents",
            "version": VERSION,
            "settings": {"moments": self.moments, **dataclasses.asdict(self.sizes)},
            "config": json.loads(json.dumps(dataclasses.asdict(self.config))),
            "data": {
                "name": cache.manifest.source,
                "rows": len(cache),
                "shape": list(cache.shape),
                "classes": len(cache.classes),
                "digest": cache.manifest.digest,
            },
            "extractor": self.config.run.extractor,
            "floor": floor,
            "seeds": list(self.seeds),
            "asked": sorted(asked),
            "moments": [self.spacing * (k + 1) for k in range(self.moments)],
            "arms": [self._arm(arm) for arm in self.arms],
        }

    def _arm(self, arm: Arm) -> dict[str, Any]:
        compute = dataclasses.asdict(self.compute[arm.name])
        return dataclasses.asdict(arm) | {"samples": self.samples(arm), "compute": compute}


def held_arms(found: dict[str, Any]) -> list[Arm]:
    """The arms of a study.json."""
    return [Arm(**{f.name: entry.get(f.name) for f in dataclasses.fields(Arm)}) for entry in found["arms"]]


def held_config(found: dict[str, Any]) -> Config:
    """The configuration of a study.json."""
    return from_yaml(json.dumps(found["config"]), STUDY)


def completed(study: Study, folder: Path, cache: "Cache") -> Study:
    """The study with the arms and seeds that the folder has already, all counted; `UserError` if the folder holds another study."""
    before = held(folder)
    if before is None:
        return _counted(study, study.arms, cache)
    same(study, before, folder)
    if (digest := before["data"].get("digest", cache.manifest.digest)) != cache.manifest.digest:
        remedy = "choose another folder with --out, or give the data that it has"
        raise UserError(f"{folder} holds a study on other data ({before['data']['name']}, {digest[:12]}) than --data.source: {remedy}")
    old = held_arms(before)
    arms = {arm.name: arm for arm in old} | {arm.name: arm for arm in study.arms}
    for arm in old:
        if arm != arms[arm.name] and arm.of(study.config.method) != arms[arm.name].of(study.config.method):
            raise UserError(f"{folder} holds an arm {arm.name} with other options: give this one another name, or choose another --out")
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


def same(study: Study, before: dict[str, Any], folder: Path) -> None:
    """`UserError` for the first setting that the study in a folder has otherwise."""
    now = {"moments": study.moments, **dataclasses.asdict(study.sizes)}
    for name, value in json.loads(json.dumps(now)).items():
        if before["settings"].get(name) != value:
            word = "--moments" if name == "moments" else flag("measure", name)
            remedy = "choose another folder with --out, or ask for the same"
            raise UserError(f"{folder} holds a study with {word} {before['settings'].get(name)}, now {value}: {remedy}")
    theirs, ours = flat(held_config(before)), flat(study.config)
    for part, name in dict.fromkeys([*ours, *theirs]):
        was, value = theirs.get((part, name)), ours.get((part, name))
        if was != value and (part, name) not in FREE:
            held_so = f"{folder} holds a study with {flag(part, name)} {_plain(was)}, now {_plain(value)}"
            raise UserError(f"{held_so}: choose another folder with --out")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


DECIDED = ("seed", "sample_every", "evaluate_every", "save_every", "keep", "evaluate_count")
"""Entries of `run` that a study decides for each of its runs, or has no use for."""
FREE = {("run", "device"), ("run", "seed"), ("run", "log_every"), ("run", "loggers"), ("data", "source")}
"""Entries that may change when a study goes on."""


def examined(folder: Path) -> None:
    """`UserError` for a folder that holds something else; nothing is touched."""
    here = folder.expanduser().resolve()
    if here.is_dir() and not (here / STUDY).exists() and foreign(here, [".lock", STUDY]):
        raise UserError(f"{here} is not empty and holds no study: choose another folder with --out")


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """The study's folder, made if need be; no other process writes study.json meanwhile. `UserError` if it is something else's."""
    here = made(folder)
    examined(here)
    with lock(here / ".lock"):
        clean(here, [STUDY, "env.json"])
        clean(here / "samples", ["*.png"])
        yield here


def note(here: Path, study: Study, cache: "Cache", floor: dict[str, float], runs: Collection[tuple[str, int]]) -> None:
    """Write study.json, with these runs beside those that it had, and env.json the first time."""
    before = held(here) or {}
    asked = {*runs, *((arm, seed) for arm, seed in before.get("asked", []))}
    write(here / STUDY, json.dumps(study.described(cache, floor, asked), indent=1) + "\n")
    if not (here / "env.json").exists():
        write(here / "env.json", json.dumps(environment(study.config.run.device), indent=1) + "\n")


def parted(part: str | None) -> tuple[int, int]:
    """K and N of `K/N`, 1 and 1 of None; `UserError` for another word."""
    k, _, n = (part or "1/1").partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UserError(f"--part: K/N with 1 <= K <= N, such as 2/8, got {part!r}")
    return int(k), int(n)
