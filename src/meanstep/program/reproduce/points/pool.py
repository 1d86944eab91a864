"""Runs a sweep's jobs on several processes: progress with the remaining time, Ctrl-C that loses nothing, records as they come."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from meanstep.program import workers
from meanstep.program.bar import Bar, waiting
from meanstep.program.console import err
from meanstep.program.disk import remove
from meanstep.program.reproduce.points import jobs
from meanstep.program.reproduce.points.jobs import MEASURING, Job, Stopped, cost
from meanstep.program.reproduce.points.records import Record, save
from meanstep.program.reproduce.points.settings import Settings

SET_COST = 2000
"""What a set's own record costs, in plain training steps."""


def plan(settings: Settings, found: list[Record]) -> list[Job]:
    """What is left to do: sets without their own record, then pairs of set and seed without all their models."""
    described = {r["set"] for r in found if r["kind"] == "set"}
    done = {(r["set"], r["seed"], r["id"]) for r in found if r["kind"] == "model"}
    ids = {spec.id for spec in settings.specs()}
    pairs = [(data, seed) for seed in settings.seeds for data in settings.sets]
    left = [pair for pair in pairs if not all((*pair, name) in done for name in ids)]
    sets = [Job(((data, 0),), models=False) for data in settings.sets if data not in described]
    if not settings.ensemble:
        return sets + [Job((pair,)) for pair in left]
    alike: dict[int, list[tuple[str, int]]] = {}
    for pair in left:
        alike.setdefault(jobs.law_of(pair[0], settings).dim, []).append(pair)
    return sets + [Job(tuple(some)) for some in alike.values()]


def run(settings: Settings, folder: Path, found: list[Record], count: int, device: str) -> list[Record]:
    """Do what is left on `count` processes; all records, saved after each job. `UserError` after Ctrl-C, a kill, or where a job fails."""
    todo = plan(settings, found)
    if not todo:
        return found
    shelf = _Shelf(folder, found)
    workers.do(folder, [device] * count, todo, _work, (settings, folder), _Board(settings, todo), shelf.keep)
    return shelf.records


class _Shelf:
    """The records so far, on disk after every job; a finished job's state is of no more use."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        self.folder, self.records = folder, records

    def keep(self, job: Job, made: list[Record]) -> None:
        """Save what a job made; one that was stopped made nothing."""
        if not made:
            return
        new = {_identity(r) for r in made}
        self.records = [r for r in self.records if _identity(r) not in new] + made
        save(self.folder, self.records)
        for kind in ("safetensors", "jsonl"):
            remove(self.folder / "state" / f"{job.name}.{kind}")


def _identity(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("kind", "set", "seed", "id"))


# In the workers ---------------------------------------------------------------------------------------------------------------------


def _tell(what: str, *values: Any) -> bool:
    if what == "stop?":
        return workers.stopped()
    workers.tell(what, *values)
    return False


def _work(job: Job, settings: Settings, folder: Path) -> list[Record]:
    if workers.stopped():
        return []
    with workers.busy():
        try:
            if job.models:
                return jobs.train(job, settings, folder, _tell, workers.device())
            record = jobs.describe(job.pairs[0][0], settings)
            _tell("steps", SET_COST)
            return [record]
        except Stopped:
            return []


# What the user sees -----------------------------------------------------------------------------------------------------------------


class _Board:
    """A progress bar for the whole sweep and, for each set, the best model so far."""

    def __init__(self, settings: Settings, todo: list[Job]) -> None:
        specs = settings.specs()
        pair = sum(settings.steps * cost(spec) + MEASURING for spec in specs)
        pairs, sets = len(settings.sets) * len(settings.seeds), len(settings.sets)
        total = pair * pairs + SET_COST * sets
        left = sum(pair * len(job.pairs) if job.models else SET_COST for job in todo)
        self.done = float(total - left)  # what earlier starts finished counts, or a sweep would begin again at nothing
        self.bar = Bar(f"{pairs * len(specs)} models", total, self.done)
        self.latest: dict[tuple[str, str], float] = {}

    def shown(self) -> AbstractContextManager[Any]:
        """Live on a terminal; elsewhere one line every half minute."""
        if not err.is_terminal:
            return nullcontext()
        return Live(get_renderable=lambda: Group(self.bar.progress, self._lines()), console=err, refresh_per_second=4, transient=True)

    def read(self, messages: Any) -> None:
        """Take in what the workers said."""
        for what, *values in waiting(messages):
            if what in ("steps", "resumed"):
                self.done += values[0]
                self.bar.pace.skip(values[0] if what == "resumed" else 0.0)
            else:
                self.latest[values[0], values[1]] = values[2]
        self.bar.reach(self.done)

    def _lines(self) -> Text:
        sets: dict[str, list[tuple[float, str]]] = {}
        for (data, name), value in self.latest.items():
            if math.isfinite(value):
                sets.setdefault(data, []).append((value, name))
        lines = [f"  {data:<16} sliced W1 {min(values)[0]:.4f}  {min(values)[1]}" for data, values in sets.items()]
        return Text("\n".join(lines), style="dim")
