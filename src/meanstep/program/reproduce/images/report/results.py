"""A study in memory: which number belongs to which arm, seed and moment. Knows no statistics, no figures and no page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.inside import inside
from meanstep.program.reproduce.images import records
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT
from meanstep.program.reproduce.images.settings import Compute
from meanstep.program.reproduce.records import Record, read_json

WEIGHTS, CENTERS = ("ema", "raw"), ("data", "ema")
CENTER_WORDS = {"data": "about the data's own velocity", "ema": "about the EMA copy"}
BIAS_NORMS = {"exact for the data": "E|ema - v|² over E|v'|²", "upper bound": "E|ema - v_c|² over E|v_c|²"}

Seeds = dict[int, float]


@dataclass(frozen=True, eq=False)
class Arm:
    """What was trained; `compute` is that of one row of training."""

    name: str
    about: str
    family: str
    beta: float | None
    samples: int
    compute: Compute

    @property
    def cost(self) -> float:
        """Of one row of training, in passes forward."""
        return self.compute.passes


@dataclass(frozen=True)
class Results:
    """What a folder holds. Numbers that are missing or not finite are left out; `failed` names runs that broke off.

    `environments`: commit and machine of every run whose folder is there, else of the first.
    """

    about: Record
    environments: tuple[Record, ...]
    arms: tuple[Arm, ...]
    runs: dict[tuple[str, int], dict[int, Record]]
    failed: dict[tuple[str, int], str]
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that have a moment."""
        return tuple(sorted({seed for _, seed in self.runs}))

    @property
    def seeds_each(self) -> str:
        """In words, how many seeds the arms have that have begun, such as "2 to 3 seeds"."""
        counts = [len([seed for name, seed in self.runs if name == arm.name]) for arm in self.arms]
        low, high = (pick([n for n in counts if n], default=0) for pick in (min, max))
        return f"{low if low == high else f'{low} to {high}'} {'seed' if high == 1 else 'seeds'}"

    @property
    def moments(self) -> tuple[int, ...]:
        """Samples seen at which all arms are measured."""
        return tuple(self.about.get("moments") or sorted({seen for run in self.runs.values() for seen in run}))

    @cached_property
    def constants(self) -> tuple[Arm, ...]:
        """Arms of a constant coefficient without the anchor, by coefficient."""
        found = [arm for arm in self.arms if arm.family == CONSTANT and arm.beta is not None]
        return tuple(sorted(found, key=lambda arm: arm.beta or 0.0))

    @property
    def base(self) -> Arm | None:
        """The constant 0."""
        return self.constant(0.0)

    @property
    def others(self) -> tuple[Arm, ...]:
        """Schedules and recipes."""
        return tuple(arm for arm in self.arms if arm.family not in (CONSTANT, ANCHORED))

    def constant(self, beta: float, family: str = CONSTANT) -> Arm | None:
        """The arm of a constant coefficient, None if it is not in the study."""
        return next((arm for arm in self.arms if (arm.family, arm.beta) == (family, beta)), None)

    @cached_property
    def end(self) -> int | None:
        """The last moment of all arms that two arms or more have reached, or one if there is only one."""
        for least in (2, 1):
            for seen in reversed(self.moments):
                if len({name for (name, _), run in self.runs.items() if seen in run}) >= least:
                    return seen
        return None

    def value(self, arm: Arm | None, seen: int | None, read: Callable[[Record], Any]) -> Seeds:
        """A number of one moment's record, by seed."""
        runs = {seed: run for (name, seed), run in sorted(self.runs.items()) if arm and name == arm.name}
        found = {seed: read(run[seen]) for seed, run in runs.items() if seen is not None and seen in run}
        return {seed: float(x) for seed, x in found.items() if is_number(x)}

    def distance(self, arm: Arm | None, seen: int | None, weights: str = "ema", steps: str = "1") -> Seeds:
        """Distance of the samples to the data, by seed."""
        return self.value(arm, seen, lambda record: at(record, "distance", weights, steps))

    def seen(self, arm: Arm, seed: int | None = None) -> list[int]:
        """Moments of an arm, those beyond the others' end too."""
        return sorted({m for (name, s), run in self.runs.items() if name == arm.name and seed in (None, s) for m in run})

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """Numbers of steps of the sampler at which a distance was measured."""
        measured = (at(record, "distance", weights) or {} for run in self.runs.values() for record in run.values() for weights in WEIGHTS)
        return tuple(sorted({n for found in measured for n, x in found.items() if is_number(x)}, key=int))

    @property
    def floor(self) -> float | None:
        """Distance of one half of the data to the other."""
        found = at(self.about, "floor", "1")
        return float(found) if is_number(found) else None

    @property
    def noise(self) -> float | None:
        """Distance of noise taken for samples to the data; None in a study that did not measure it."""
        found = at(self.about, "floor", "noise")
        return float(found) if is_number(found) else None

    @cached_property
    def asked(self) -> list[tuple[str, int]]:
        """Arm and seed of the runs that were asked for."""
        if (named := self.about.get("asked")) is not None:
            return [(str(name), int(seed)) for name, seed in named]
        return [(arm.name, int(seed)) for arm in self.arms for seed in self.about.get("seeds") or self.seeds]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Runs that were asked for and have not reached the last moment of all arms, without those that broke off."""
        last = self.moments[-1] if self.moments else 0
        return [run for run in self.asked if run not in self.failed and last not in self.runs.get(run, {})]


def read(folder: Path) -> Results:
    """The folder of a study. `UserError` names the file that is missing or damaged."""
    about = records.study(folder)
    runs: dict[tuple[str, int], dict[int, Record]] = {}
    failed = {}
    for record in records.collect(folder):
        run = record["arm"], record["seed"]
        if record["kind"] == "failure":
            failed[run] = str(record["error"])
        else:
            runs.setdefault(run, {})[record["seen"]] = record
    arms = tuple(_arm(entry, folder / records.STUDY) for entry in about["arms"])
    return Results(about, _environments(folder), arms, runs, failed, _pictures(folder, arms))


def at(value: Any, *names: str) -> Any:
    """An entry of nested objects, None where one is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_number(x: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x)


def _arm(entry: Record, path: Path) -> Arm:
    passes = {name: at(entry["compute"], name) for name in ("forwards", "backwards", "tangents")}
    if not all(is_number(x) for x in (*passes.values(), entry["samples"])) or not is_number(entry["beta"] or 0):
        raise UserError(f"{path} is damaged: the numbers of arm {entry['name']!r} are none")
    return Arm(entry["name"], entry["about"], entry["family"], entry["beta"], int(entry["samples"]), Compute(**passes))


def _environments(folder: Path) -> tuple[Record, ...]:
    paths = sorted((folder / "runs").glob("*/env.json")) or [folder / "env.json"]
    return tuple(_environment(inside(folder, path.relative_to(folder))) for path in paths)


def _environment(path: Path | None) -> Record:
    found = read_json(path) if path else {}
    return found if isinstance(found, dict) else {}


def _pictures(folder: Path, arms: tuple[Arm, ...]) -> dict[str, Path]:
    """A grid of samples for each arm: that of its first seed. A link that leads out of the folder is none."""
    found = {}
    here = [path for path in (folder / "samples").glob("*.png") if inside(folder, path.relative_to(folder))]
    for arm in arms:
        numbered = {p.stem.removeprefix(f"{arm.name}-"): p for p in here if p.stem.startswith(f"{arm.name}-")}
        if seeds := [number for number in numbered if number.isdigit()]:
            found[arm.name] = numbered[min(seeds, key=int)]
    return found
