"""`meanstep reproduce latents` at work: its folder, its runs, and the report."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from meanstep.metrics import frechet
from meanstep.program.console import chat, err, out, stage
from meanstep.program.data.cache import Cache
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.machine import cores
from meanstep.program.pages.statistics import detectable
from meanstep.program.reproduce.images import pool
from meanstep.program.reproduce.images.arms import ANCHORED, CONSTANT
from meanstep.program.reproduce.images.records import held
from meanstep.program.reproduce.images.report.page import build, spoken
from meanstep.program.reproduce.images.study import Study, completed, locked, note, parted
from meanstep.program.reproduce.images.work import ELSEWHERE, ENDLESS, Job, seen
from meanstep.program.runs import networks
from meanstep.program.runs.config import checked
from meanstep.program.tables import fitted
from meanstep.program.training import estimate
from meanstep.program.training.ranks import Ranks, ranks
from meanstep.program.training.samples import Nothing, Samples, against_data, distance
from meanstep.program.training.session import data_cache
from meanstep.program.training.state import classes, fresh

if TYPE_CHECKING:
    from meanstep.program.reproduce.images.command import Latents


def run(asked: "Latents", study: Study) -> int:
    """Do what is asked for: 0, or 1 if a run's loss was not finite."""
    with ranks(study.config.run.device) as here:
        if here.first:
            return _first(asked, study, here)
        told = here.told(None)
        if told is None:
            return 0 if asked.dry_run else 2
        place, whole, todo, data = told
        pool.in_turn(todo, whole, place, Cache.open(data, verify=False), here)
        return 0


def _first(asked: "Latents", study: Study, here: Ranks) -> int:
    try:
        cache = data_cache(study.config)
        _examined(study, cache)
        if asked.dry_run:
            here.told(None)
            place = asked.out.expanduser()
            count = len(_devices(asked.workers, here, study.config.run.device))
            return _dry(completed(study, place, cache), study, place, cache, here, count)
        place, whole, todo = _begun(asked, study, cache, here)
    except BaseException:
        here.told(None)  # the others wait for it
        raise
    here.told((place, whole, todo, cache.path))
    found = _done(asked, todo, whole, place, cache, here)
    with stage("writing the report"):
        page, failed = build(place), _failed(study, place)
    for line in [*_missing(found, failed), *spoken(place)]:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    for line in (f"report: {page}", f"numbers: {place / 'summary.csv'}"):
        chat.print(line, soft_wrap=True, highlight=False, markup=False)
    return 1 if failed else 0


def _begun(asked: "Latents", study: Study, cache: Cache, here: Ranks) -> tuple[Path, Study, list[Job]]:
    """The folder, the study with what the folder had before, and what is left to do."""
    with locked(asked.out) as place:
        whole = completed(study, place, cache)
        jobs = [Job(arm, seed) for seed in study.seeds for arm in study.arms]
        floor = (held(place) or {}).get("floor") or _floor(study, cache, Ranks(0, 1, here.device), place)
        note(place, whole, cache, floor, [(job.arm.name, job.seed) for job in jobs])
    more = [job for job in _longer(whole, place) if job not in jobs]
    return place, whole, pool.left(_part([*jobs, *more], asked.part), whole, place)


def _done(asked: "Latents", todo: list[Job], study: Study, place: Path, cache: Cache, here: Ranks) -> dict[str, str]:
    if not todo:
        return {}
    if here.first:
        err.print(f"{place}: {len(todo)} runs on {len(cache):,} x {' x '.join(map(str, cache.shape))}{_power(study)}", soft_wrap=True)
    if here.size > 1:
        return pool.in_turn(todo, study, place, cache, here)
    return pool.run(todo, study, place, cache, _devices(asked.workers, here, study.config.run.device)[: len(todo)])


def _examined(study: Study, cache: Cache) -> None:
    """What can be known before anything is written: that the network fits the data, each arm the network, and the extractor is there."""
    config = study.config
    open_extractor(config.run.extractor)
    for arm in study.arms:
        checked(dataclasses.replace(config, method=arm.of(config.method)))
    networks.made(networks.described(config.network, cache.shape, classes(config, cache)), config.run.seed, config.network.name)


def _floor(study: Study, cache: Cache, here: Ranks, place: Path) -> dict[str, float]:
    """The distance of one half of the data to the other, and that of noise, as many samples of it as of a network."""
    samples = Samples.of(study.config, cache, place, here)
    against = against_data(samples)
    return {"1": frechet(*against.halves), "noise": distance(samples, Nothing(), against, range(study.sizes.count), 1, "walk")}


def _part(jobs: list[Job], part: str | None) -> list[Job]:
    """Every N-th job, the K-th first."""
    k, n = parted(part)
    return jobs[k - 1 :: n]


def _longer(whole: Study, place: Path) -> list[Job]:
    """Runs of constant coefficients that were at their end before a dearer arm came."""
    constants = [Job(arm, seed) for seed in whole.seeds for arm in whole.arms if arm.family in (CONSTANT, ANCHORED)]
    return [job for job in constants if 0 < seen(job, place) < whole.samples(job.arm)]


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


def _missing(found: dict[str, str], failed: list[str]) -> list[str]:
    busy = [name for name, what in found.items() if what == ELSEWHERE]
    lines = [f"{name}: another process is at work on it; the report has what is measured so far" for name in busy]
    return lines + [f"{name}: its loss was not finite; runs/{name}/measures.jsonl says where" for name in failed]


def _failed(study: Study, place: Path) -> list[str]:
    jobs = [Job(arm, seed) for seed in study.seeds for arm in study.arms]
    return [job.name for job in jobs if seen(job, place) == ENDLESS]


def _dry(study: Study, asked: Study, place: Path, cache: Cache, here: Ranks, workers: int) -> int:
    """Every arm asked for with what it costs, and how long what is left takes, by the time of the first arm's steps."""
    rows = [(arm, study.compute[arm.name], study.samples(arm)) for arm in asked.arms]
    table = Table("arm", "what", "forwards", "backwards", "tangents", "passes", "samples", box=None, header_style="bold")
    for arm, c, n in rows:
        numbers = (f"{c.forwards:.2f}", f"{c.backwards:.2f}", f"{c.tangents:.2f}", f"{c.passes:.2f}", f"{n:,}")
        table.add_row(arm.name, arm.about, *numbers)
    out.print(fitted(table, out))
    first, todo = rows[0][0], pool.left([Job(arm, seed) for seed in asked.seeds for arm in asked.arms], study, place)
    if not todo:
        out.print("nothing is left to do")
        return 0
    config = study.run(first, asked.seeds[0])
    a_pass = estimate.a_step(config, cache, here, fresh(config, cache, here)) / config.run.batch / study.compute[first.name].passes
    total = a_pass * sum(study.compute[job.arm.name].passes * (study.samples(job.arm) - seen(job, place)) for job in todo)
    words = f"{len(todo)} of {len(rows) * len(asked.seeds)} runs are left: training takes about {estimate.clock(total)} of one worker here"
    out.print(f"{words}, {estimate.clock(total / workers)} on {workers}; measuring comes on top", soft_wrap=True)
    return 0
