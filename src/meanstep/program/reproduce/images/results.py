"""A study of arms in memory: which number belongs to which arm, seed and moment. Knows no statistics, no figures and no page."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT
from meanstep.program.reproduce.images.settings import Compute
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.report import results
from meanstep.program.reproduce.report.results import Seeds, at, is_number, numbered
from meanstep.program.reproduce.study import Line

WEIGHTS, CENTERS = ("ema", "raw"), ("data", "ema")
CENTER_WORDS = {"data": "about the data's own velocity", "ema": "about the EMA copy"}
EXACT = "exact for the data"
BIAS_NORMS = {EXACT: "E|ema - v|² over E|v'|²", "upper bound": "E|ema - v_c|² over E|v_c|²"}


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

    @property
    def line(self) -> Line:
        """As a variant of any study."""
        return Line(self.family, self.beta, self.name)


class Results(results.Results):
    """By arm, seed and moment."""

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """All of the study; `UserError` if their numbers are none."""
        return tuple(_arm(entry, self.folder / KIND.file) for entry in self.about["arms"])

    @property
    def seeds_each(self) -> str:
        """In words, how many seeds the arms have that have begun, such as "2 to 3 seeds"."""
        counts = [n for arm in self.arms if (n := len(self.by_unit.get((arm.name,), {})))]
        low, high = (pick(counts, default=0) for pick in (min, max))
        return f"{low if low == high else f'{low} to {high}'} {'seed' if high == 1 else 'seeds'}"

    @cached_property
    def moments(self) -> tuple[int, ...]:
        """Samples seen at which all arms are measured."""
        return tuple(self.about.get("moments") or sorted({seen for run in self.runs.values() for seen in run}))

    @cached_property
    def until(self) -> list[int]:
        """Those up to the end."""
        return [seen for seen in self.moments if seen <= (self.end or 0)]

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

    @property
    def anchors(self) -> list[tuple[Arm, Arm | None]]:
        """Arms with the anchor, and the constants without it."""
        return [(arm, self.constant(arm.beta)) for arm in self.arms if arm.family == ANCHORED and arm.beta is not None]

    def broke(self, *arms: Arm | None) -> tuple[set[int], ...]:
        """Seeds at which each of these arms broke off."""
        return self.broken(*((arm.name,) if arm else () for arm in arms))

    def constant(self, beta: float, family: str = CONSTANT) -> Arm | None:
        """The arm of a constant coefficient, None if it is not in the study."""
        return next((arm for arm in self.arms if (arm.family, arm.beta) == (family, beta)), None)

    @cached_property
    def end(self) -> int | None:
        """The last moment of all arms that two arms or more have reached, or one if there is only one."""
        reached = {seen: len({name for (name, _), run in self.runs.items() if seen in run}) for seen in self.moments}
        return next((seen for least in (2, 1) for seen in reversed(self.moments) if reached[seen] >= least), None)

    def value(self, arm: Arm | None, seen: int | None, read: Callable[[Record], Any]) -> Seeds:
        """A number of one moment's record, by seed."""
        return self.by_seed((arm.name,), read, seen) if arm else {}

    def distance(self, arm: Arm | None, seen: int | None, weights: str = "ema", steps: str = "1") -> Seeds:
        """Distance of the samples to the data, by seed."""
        return self.value(arm, seen, lambda record: at(record, "distance", weights, steps))

    def seen(self, arm: Arm, seed: int | None = None) -> list[int]:
        """Moments of an arm, those beyond the others' end too."""
        return sorted({seen for s, run in self.by_unit.get((arm.name,), {}).items() if seed in (None, s) for seen in run})

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """Numbers of steps of the sampler at which a distance was measured."""
        measured = (at(record, "distance", weights) or {} for run in self.runs.values() for record in run.values() for weights in WEIGHTS)
        return tuple(sorted({n for found in measured for n, x in found.items() if is_number(x)}, key=int))

    def floor(self, what: str = "1") -> float | None:
        """Distance of one half of the data to the other; "noise": of noise taken for samples to the data, where that was measured."""
        found = at(self.about, "floor", what)
        return float(found) if is_number(found) else None

    @cached_property
    def asked(self) -> list[tuple[str, int]]:
        """Arm and seed of the runs that were asked for."""
        if (named := self.about.get("asked")) is None:
            named = [(arm.name, seed) for arm in self.arms for seed in self.about.get("seeds") or self.seeds]
        return [(str(name), int(seed)) for name, seed in named]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Runs that were asked for and have not reached the last moment of all arms, without those that broke off."""
        last = max(self.moments[-1:], default=0)
        return [run for run in self.asked if run not in self.failed and last not in self.runs.get(run, {})]

    @property
    def pictures(self) -> dict[str, Path]:
        """A grid of samples for each arm: that of its first seed."""
        return {arm.name: path for arm in self.arms if (path := numbered(self.folder, arm.name, "png"))}


def _arm(entry: Record, path: Path) -> Arm:
    passes = {name: at(entry["compute"], name) for name in ("forwards", "backwards", "tangents")}
    if not all(is_number(x) for x in (*passes.values(), entry["samples"])) or not is_number(entry["beta"] or 0):
        raise UserError(f"{path} is damaged: the numbers of arm {entry['name']!r} are none")
    return Arm(entry["name"], entry["about"], entry["family"], entry["beta"], int(entry["samples"]), Compute(**passes))
