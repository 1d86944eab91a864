"""A study's records in memory: which number belongs to which unit, seed and moment. Knows no statistics, no figures and no page."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Self

from meanstep.program.inside import inside
from meanstep.program.reproduce import records, study
from meanstep.program.reproduce.folder import environments
from meanstep.program.reproduce.records import Record, read_json

Seeds = dict[int, float]
Unit = tuple[Any, ...]
"""Whose a record is: what its workload's `unit` names but for the kind, the seed last."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a folder holds. Numbers that are missing or not finite are left out; `failed` names units that broke off, and why.

    `about`: the study's file; `environments`: env.json of every run whose folder is there, else those of the study; `runs`: records by
    unit and moment, which is 0 where there is one; `rest`: records of no seed.
    """

    about: Record
    environments: tuple[Record, ...] = ()
    runs: dict[Unit, dict[int, Record]] = field(default_factory=dict)
    failed: dict[Unit, str] = field(default_factory=dict)
    rest: tuple[Record, ...] = ()
    folder: Path = Path()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a study's folder. `UserError` names the file that is missing or damaged."""
        held = study.read(folder)
        names = [name for name in held.kind.unit if name not in ("kind", "seed")]
        found = cls({"study": held.kind.studies[0]} | held.about, _environments(folder), folder=folder)
        rest = []
        for record in records.collect(folder, held.kind):
            unit = (*(record.get(name) for name in names), record.get("seed"))
            if "seed" not in record:
                rest.append(record)
            elif record["kind"] == "failure":
                found.failed[unit] = str(record["error"])
            else:
                found.runs.setdefault(unit, {})[record.get("seen", 0)] = record
        return cls(found.about, found.environments, found.runs, found.failed, tuple(rest), folder)

    @property
    def settings(self) -> Record:
        """What was asked for."""
        return dict(self.about.get("settings") or {})

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that have a record."""
        return tuple(sorted({unit[-1] for unit in self.runs}))

    @property
    def diverged(self) -> Collection[Unit]:
        """Units whose training came to nothing: those that broke off."""
        return self.failed

    @cached_property
    def _broken(self) -> dict[Unit, set[int]]:
        found: dict[Unit, set[int]] = {}
        for *unit, seed in self.diverged:
            found.setdefault((*unit,), set()).add(seed)
        return found

    def broken(self, *of: Unit) -> tuple[set[int], ...]:
        """Seeds at which each unit, named without its seed, diverged."""
        return tuple(self._broken.get(unit, set()) for unit in of)

    @cached_property
    def by_unit(self) -> dict[Unit, dict[int, dict[int, Record]]]:
        """Moments by seed, for each unit without its seed."""
        found: dict[Unit, dict[int, dict[int, Record]]] = {}
        for unit in sorted(self.runs):
            found.setdefault(unit[:-1], {})[unit[-1]] = self.runs[unit]
        return found

    def by_seed(self, of: Unit, read: Callable[[Record], Any], seen: int | None = 0) -> Seeds:
        """A number of one moment's record, by seed; `of`: the unit without its seed."""
        found = {seed: read(run[seen]) for seed, run in self.by_unit.get(of, {}).items() if seen is not None and seen in run}
        return {seed: float(x) for seed, x in found.items() if is_number(x)}


def at(value: Any, *names: str) -> Any:
    """An entry of nested objects, None where one is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_number(x: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x)


def numbered(folder: Path, name: str, kind: str) -> Path | None:
    """Of samples/NAME-SEED.KIND that of the first seed; none where a link leads out of the folder."""
    paths = [path for path in (folder / "samples").glob(f"*.{kind}") if inside(folder, path.relative_to(folder))]
    found = {
        int(seed): path for path in paths if path.stem.startswith(f"{name}-") and (seed := path.stem.removeprefix(f"{name}-")).isdigit()
    }
    return found[min(found)] if found else None


def _environments(folder: Path) -> tuple[Record, ...]:
    paths = sorted((folder / "runs").glob("*/env.json"))
    found = [read_json(path) for name in paths if (path := inside(folder, name.relative_to(folder)))]
    return tuple(each for each in found if isinstance(each, dict)) if paths else tuple(environments(folder))
