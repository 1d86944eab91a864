"""A study: variants by seeds by sets, as a workload states them. What a workload is, what a study can be asked, what its folder says.

A workload is a package in this one that has a `KIND`, a command, and what is its own of a report, `REPORT` in its module `report`; nothing
else names it. Its folder of results holds

KIND.file       {"study", "settings", "lines": [{arm, beta, id}]} and whatever else the workload says of itself: what was asked for
env.json        commit, versions, machine; env-2.json and so on: of those under which it went on, where they were others
records.jsonl   {"kind", "seed", ...}, one object a line: what was found, see the workload's own text
state/JOB.*     what a job that is not finished needs to go on, removed when its records are there
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from meanstep.program import reproduce
from meanstep.program.console import UserError
from meanstep.program.reproduce.records import Record, read_json

Tell = Callable[..., bool]
"""What a job calls: `tell("steps", cost)` for work that is done, `tell("resumed", cost)` for work that an earlier start did,
`tell("best", of, name, value)` for a score, less is better; `tell("said", line)` for a line that the user sees once; `tell("stop?")` is
true once the job has to save and raise `Stopped`."""
DONE, STOPPED, ELSEWHERE, FAILED = "done", "stopped", "elsewhere", "failed"


class Stopped(Exception):
    """A job was asked to stop, and what it has is on disk."""


@dataclass(frozen=True)
class Line:
    """One variant of a study: its arm, its coefficient (None where it has none), its id."""

    arm: str
    beta: float | None
    id: str


def _lines(about: Record) -> list[Line]:
    return [Line(line["arm"], line["beta"], line["id"]) for line in about["lines"]]


@dataclass(frozen=True)
class Kind:
    """What a workload is called, and what is in its folders.

    `commands`: word, description and class in the package's `command`; `studies`: entries "study" of `file`, whose further `entries` are
    objects (dict) or lists; `needs`: entries that a record of a kind cannot do without; `unit`: entries that tell whose a record is;
    `parts`: files in which jobs keep records of their own, as a pattern; `order`: entries by which records are sorted; `own`: files by
    folder, of which a crash may leave parts; `flags`: options by the names of settings; `shared`: several processes may be at work.
    """

    package: str
    commands: tuple[tuple[str, str, str], ...]
    studies: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]
    unit: tuple[str, ...] = ("kind", "set", "seed", "id")
    file: str = "study.json"
    version: int = 1
    entries: Mapping[str, type] = field(default_factory=lambda: {"settings": dict, "lines": list})
    lines: Callable[[Record], list[Line]] = _lines
    parts: str = ""
    order: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    place: int = 9

    @property
    def name(self) -> str:
        """That of its package."""
        return self.package.rpartition(".")[2]

    def option(self, name: str) -> str:
        """The command's option that decides a setting."""
        return self.flags.get(name, name if name.startswith("--") else f"--{name.replace('_', '-')}")


class Job(Protocol):
    """What one worker does at a time."""

    @property
    def name(self) -> str:
        """For files and messages."""


class Study(ABC):
    """What the engine asks of a workload: a frozen dataclass that pickles, for it is sent to workers. `name`: its entry "study"."""

    kind: ClassVar[Kind]
    name: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What is done, in words such as "12 models"."""

    @abstractmethod
    def stated(self, about: Record | None) -> Record:
        """What may not change when a study goes on, by setting or by option: as a file of its kind has it, or with None its own."""

    @abstractmethod
    def described(self) -> Record:
        """What its file holds."""

    @abstractmethod
    def left(self, here: Path) -> Sequence[Any]:
        """The jobs that are not done."""

    @abstractmethod
    def cost(self, job: Any) -> float:
        """Of a job, or with None of all that there ever were, in any unit: for the time that is left."""

    @abstractmethod
    def do(self, job: Any, here: Path, tell: Tell, device: str) -> tuple[str, list[Record]]:
        """One job: what became of it, and its records but for those in a file of their own. `Stopped` if it was asked to stop."""

    def joined(self, here: Path) -> "Study":
        """The study with what its folder has already."""
        return self

    def remarks(self, found: Mapping[str, str], here: Path) -> list[str]:
        """What is to be said after the work, a line each; `found`: what became of each job."""
        return []


@dataclass(frozen=True)
class Held:
    """A study as its folder holds it; `about`: all of its file."""

    kind: Kind
    about: Record

    @property
    def name(self) -> str:
        """Its entry "study"."""
        return str(self.about["study"])

    @property
    def settings(self) -> Record:
        """Its entry "settings"."""
        return dict(self.about["settings"])

    @property
    def lines(self) -> tuple[Line, ...]:
        """Its variants."""
        return tuple(self.kind.lines(self.about))

    @property
    def sets(self) -> tuple[str, ...]:
        """What it is made on; one without a name where a study has one set of data."""
        return tuple(self.settings.get("sets", ("",)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that were asked for."""
        return tuple(self.about.get("seeds") or self.settings.get("seeds", ()))


@cache
def kinds() -> tuple[Kind, ...]:
    """Every workload that there is: found, not listed."""
    packages = (f"{reproduce.__name__}.{module.name}" for module in pkgutil.iter_modules(reproduce.__path__) if module.ispkg)
    there = (getattr(importlib.import_module(package), "KIND", None) for package in packages)
    return tuple(sorted((kind for kind in there if kind), key=lambda kind: (kind.place, kind.name)))


def kind_of(folder: Path) -> Kind | None:
    """The workload that a folder of results is of; None where it holds no study. `UserError` for a study that no workload here makes."""
    there = [kind for kind in kinds() if (folder / kind.file).is_file()]
    for kind in there:
        if (name := _entry(folder / kind.file, "study")) is None or name in kind.studies:
            return kind
    if there:
        raise UserError(f"{folder / there[0].file} is of a study {name!r}, which no workload here makes")
    return None


def read(folder: Path) -> Held:
    """The study in a folder; `UserError` where there is none, or where its file is damaged or of a later version."""
    if (kind := kind_of(folder)) is None:
        raise UserError(f"{folder} holds no study: give a folder that `meanstep reproduce` wrote")
    return Held(kind, held(folder, kind) or {})


def held(folder: Path, kind: Kind) -> Record | None:
    """What the file of a study of this kind holds, None where there is none; `UserError` if it is damaged, another's or a later version."""
    path = folder / kind.file
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no study; choose another folder with --out")
    if found.get("study", kind.studies[0]) not in kind.studies:
        raise UserError(f"{folder} holds the study {found['study']!r}, not {' or '.join(kind.studies)}: choose another folder with --out")
    if (version := found.get("version", kind.version)) != kind.version:
        raise UserError(f"{path} is of version {version!r}, and this program reads {kind.version}: use a newer meanstep, or another folder")
    try:
        missing = [name for name, type_ in kind.entries.items() if not isinstance(found.get(name), type_)]
        if not missing:
            kind.lines(found)
    except (KeyError, TypeError, AttributeError) as error:
        missing = [f"line with {error}"]
    if missing:
        raise UserError(f"{path} is damaged: it holds no {', '.join(missing)}; choose another folder with --out")
    return found


def _entry(path: Path, name: str) -> Any:
    found = read_json(path)
    return found.get(name) if isinstance(found, dict) else None
