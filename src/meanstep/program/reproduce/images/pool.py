"""A study's runs on several processes, or one after the other on the ranks of a launcher; what the user sees meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache as cache_once
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meanstep.program import workers
from meanstep.program.bar import Bar, waiting
from meanstep.program.console import Interrupted, err
from meanstep.program.data import Cache
from meanstep.program.reproduce.images.study import Study
from meanstep.program.reproduce.images.work import STOPPED, Job, seen, stopped_when, work
from meanstep.program.runs.config import Config
from meanstep.program.training.events import Show
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State


def run(jobs: Sequence[Job], study: Study, here: Path, cache: Cache, devices: Sequence[str]) -> dict[str, str]:
    """Do the jobs, one a device at a time; what became of each. `UserError` after Ctrl-C, a kill, or where one fails by mistake."""
    found: dict[str, str] = {}

    def keep(job: Job, outcome: str) -> None:
        found[job.name] = outcome

    workers.do(here, devices, jobs, _one, (study, here, cache.path), Board(jobs, study, here), keep)
    if STOPPED in found.values():  # somebody stopped a worker and not us
        raise Interrupted(workers.AGAIN.format(here))
    return found


def _one(job: Job, study: Study, here: Path, data: Path) -> str:
    if workers.stopped():
        return STOPPED
    with workers.busy(), stopped_when(workers.stopped):
        return work(job, study, here, _opened(data), Ranks(0, 1, torch.device(workers.device())), partial(_told, job))[0]


@cache_once
def _opened(data: Path) -> Cache:
    """Opened by each worker: rows that were sent to it would be copied into shared memory."""
    return Cache.open(data, verify=False)


@contextmanager
def _told(job: Job, config: Config, state: State, ranks: Ranks) -> Iterator[Show]:
    """Progress goes to the parent."""
    workers.tell(job.name, state.seen)
    yield lambda state, means: workers.tell(job.name, state.seen)


def in_turn(jobs: Sequence[Job], study: Study, here: Path, cache: Cache, ranks: Ranks) -> dict[str, str]:
    """The jobs one after the other, each on all ranks of a launcher."""
    found = {}
    for job in jobs:
        found[job.name], number = work(job, study, here, cache, ranks, partial(_spoken, job))
        if number:
            raise Interrupted(workers.AGAIN.format(here), number) if ranks.first else SystemExit(128 + number)
    return found


@contextmanager
def _spoken(job: Job, config: Config, state: State, ranks: Ranks) -> Iterator[Show]:
    """A line now and then."""
    said = [time.monotonic()]

    def show(state: State, means: dict[str, float]) -> None:
        if ranks.first and time.monotonic() - said[0] > 30:
            said[0] = time.monotonic()
            err.print(f"{job.name}: {state.seen:,} of {config.run.samples:,} samples", soft_wrap=True)

    yield show


def left(jobs: Sequence[Job], study: Study, here: Path) -> list[Job]:
    """The jobs that are not at their end."""
    return [job for job in jobs if seen(job, here) < study.samples(job.arm)]


class Board:
    """A bar over all runs, by what they cost, with the time that is left."""

    def __init__(self, jobs: Sequence[Job], study: Study, here: Path) -> None:
        self.cost = {job.name: study.compute[job.arm.name].passes for job in jobs}
        self.done = {job.name: min(seen(job, here), study.samples(job.arm)) for job in jobs}
        self.bar = Bar(f"{len(jobs)} runs", sum(self.cost[job.name] * study.samples(job.arm) for job in jobs), self._sum())

    def _sum(self) -> float:
        return sum(self.cost[name] * samples for name, samples in self.done.items())

    def shown(self) -> AbstractContextManager[Any]:
        """Live on a terminal; elsewhere one line every half minute."""
        return self.bar.progress if err.is_terminal else nullcontext()

    def read(self, messages: Any) -> None:
        """Take in what the workers said."""
        for name, samples in waiting(messages):
            self.done[name] = samples
        self.bar.reach(self._sum())
