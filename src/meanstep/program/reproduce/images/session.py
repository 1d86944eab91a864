"""`meanstep reproduce latents` at work: on one process or on the ranks of a launcher, and what it would take."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from meanstep.program import workers
from meanstep.program.console import Interrupted, err, out
from meanstep.program.data.cache import Cache
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.machine import cores
from meanstep.program.pages.statistics import detectable
from meanstep.program.reproduce import pool
from meanstep.program.reproduce.folder import examined
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images.jobs import opened, seen, work
from meanstep.program.reproduce.images.settings import Job, Plan
from meanstep.program.reproduce.images.study import Study, completed
from meanstep.program.reproduce.session import conduct
from meanstep.program.reproduce.study import held
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, checked
from meanstep.program.tables import fitted
from meanstep.program.training import estimate
from meanstep.program.training.events import Show
from meanstep.program.training.ranks import Ranks, ranks
from meanstep.program.training.session import data_cache
from meanstep.program.training.state import State, classes, fresh

if TYPE_CHECKING:
    from meanstep.program.reproduce.images.command import Latents


def run(asked: "Latents", plan: Plan) -> int:
    """Do what is asked for: 0, or 1 if a run's loss was not finite."""
    study = Study(**vars(plan))
    with ranks(study.config.run.device) as here:
        if here.first:
            return _first(asked, study, here)
        told = here.told(None)
        if told is None:
            return 0 if asked.dry_run else 2
        _in_turn(here, *told)
        return 0


def _first(asked: "Latents", study: Study, here: Ranks) -> int:
    told = False

    def all_ranks(whole: Study, todo: Sequence[Job], place: Path, devices: Sequence[str]) -> dict[str, str]:
        nonlocal told
        here.told((whole, todo, place))
        told = True
        if todo:
            data = f"{whole.data['rows']:,} x {' x '.join(map(str, whole.data['shape']))}"
            err.print(f"{place}: {len(todo)} runs on {data}{_power(whole)}", soft_wrap=True)
        return _in_turn(here, whole, todo, place) if here.size > 1 else pool.run(whole, todo, place, devices)

    try:
        examined(asked.out, study)
        cache = data_cache(study.config)
        _possible(study, cache)
        devices = _devices(asked.workers, here, study.config.run.device)
        if asked.dry_run:
            return _dry(study, asked.out.expanduser(), cache, here, len(devices))
        place, _ = conduct(dataclasses.replace(study, rows=cache.path), asked.out, devices, all_ranks)
    finally:
        if not told:
            here.told(None)  # the others wait for it
    return 1 if study.failed(place) else 0


def _in_turn(here: Ranks, study: Study, todo: Sequence[Job], place: Path) -> dict[str, str]:
    """The jobs one after the other, each on all ranks of a launcher."""
    found = {}
    for job in todo:
        found[job.name], number = work(job, study, place, opened(study.rows), here, partial(_spoken, job))
        if number:
            raise Interrupted(workers.AGAIN.format(place), number) if here.first else SystemExit(128 + number)
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


def _possible(study: Study, cache: Cache) -> None:
    """What can be known before anything is written: that the network fits the data, each arm the network, and the extractor is there."""
    config = study.config
    open_extractor(config.run.extractor)
    for arm in study.arms:
        checked(dataclasses.replace(config, method=arm.of(config.method)))
    networks.made(networks.described(config.network, cache.shape, classes(config, cache)), config.run.seed, config.network.name)


def _devices(count: int | None, here: Ranks, named: str) -> list[str]:
    """A device for each worker: the one that was named, else all cards in turn, or one for each core."""
    if here.device.type != "cuda":
        return [str(here.device)] * (count or (cores() if here.device.type == "cpu" else 1))
    there = [str(here.device)] if ":" in named else [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    return [there[k % len(there)] for k in range(count or len(there))]


def _power(study: Study) -> str:
    """What few seeds can tell, in words."""
    n = len(study.seeds)
    if n < 2:
        return "; one seed: differences have no interval, and no test is made (--seeds 0:3)"
    gain = 1 - (detectable(0.05, n) or 0.0)
    return f"; {n} seeds: if ratios vary by 5 percent from seed to seed, a paired test sees gains of {gain:.0%} and more"


def _dry(asked: Study, place: Path, cache: Cache, here: Ranks, workers: int) -> int:
    """Every arm asked for with what it costs, and how long what is left of this part takes, by the time of the first arm's steps."""
    study = completed(asked, held(place, KIND), cache, place)
    table = Table("arm", "what", "forwards", "backwards", "tangents", "passes", "samples", box=None, header_style="bold")
    for arm in asked.arms:
        c = study.compute[arm.name]
        numbers = [f"{x:.2f}" for x in (c.forwards, c.backwards, c.tangents, c.passes)]
        table.add_row(arm.name, arm.about, *numbers, f"{study.samples(arm):,}")
    out.print(fitted(table, out))
    jobs = study.share(asked.jobs, place)
    todo = [(job.arm.name, left) for job in jobs if (left := study.samples(job.arm) - seen(job, place)) > 0]
    if not todo:
        out.print("nothing is left to do")
        return 0
    config = study.run(jobs[0].arm, jobs[0].seed)
    a_row = estimate.a_step(config, cache, here, fresh(config, cache, here)) / config.run.batch
    first, at_once = study.compute[jobs[0].arm.name].passes, min(workers, len(todo))
    total = a_row * sum(study.compute[name].passes / first * samples for name, samples in todo)
    words = f"{len(todo)} of {len(jobs)} runs are left: training takes about {estimate.clock(total)} of one worker here"
    out.print(f"{words}, {estimate.clock(total / at_once)} on {at_once}; measuring comes on top", soft_wrap=True)
    return 0
