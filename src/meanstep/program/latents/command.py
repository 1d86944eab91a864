"""`meanstep reproduce latents`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.table import Table

from meanstep.metrics import frechet
from meanstep.program.console import UserError, err, out
from meanstep.program.data import Cache
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.latents import pool
from meanstep.program.latents.arms import ANCHORED, CONSTANT, GROUPS, SINGLES, SWEPT, arms, from_yaml
from meanstep.program.latents.measure import Sizes
from meanstep.program.latents.records import held
from meanstep.program.latents.study import Study, completed, held_arms, held_config, locked, note
from meanstep.program.latents.work import ELSEWHERE, ENDLESS, Job, seen
from meanstep.program.machine import cores
from meanstep.program.pages.page import require
from meanstep.program.pages.statistics import detectable
from meanstep.program.runs import networks
from meanstep.program.runs.config import (
    AveragesConfig,
    Config,
    DataConfig,
    MethodConfig,
    NetworkConfig,
    OptimiserConfig,
    RunConfig,
    checked,
)
from meanstep.program.training import estimate
from meanstep.program.training.command import Where, based, data_cache, parts, started
from meanstep.program.training.presets import DEFAULT
from meanstep.program.training.ranks import Ranks, ranks
from meanstep.program.training.samples import Nothing, Samples, against_data, distance
from meanstep.program.training.state import classes, fresh

ROOT, SAMPLES = Path("runs/latents"), 100_000
LEAST = {"count": 64, "rows": 64, "rows_at": 16}
_GROUPS = ", ".join(f"{name} ({' '.join(members)})" for name, members in GROUPS.items())
ARMS_HELP = (
    f"What to train. Groups: {_GROUPS}. Single arms: "
    f"{', '.join(SINGLES)}, and with a coefficient {', '.join(f'{kind}@BETA' for kind in SWEPT)}. Further ones by --arms-file."
)
FILE_HELP = "Arms of your own, YAML: 'late: {recipe: coefficient, options: {beta: {over_t: [0, 1, 8]}, anchor: 0}}'. Name them in --arms."
SEEDS_HELP = "Seeds of weights, order, noise and times: arms of one seed share them. Three or more, or differences cannot be told."
PART_HELP = "K/N: do every N-th run only, for N processes or jobs that share --out (1/4, 2/4, ...). The last one has all for the report."


@dataclass(frozen=True)
class Latents:
    """Train arms of the coefficient side by side on images or latents, and report: is the quietest gradient the best generator?

    Each arm and seed is a run of `meanstep train`, measured at the same moments: distances in 1, 2 and 4 steps, raw and EMA weights;
    the loss's variance over t; the residual's noise over beta. Without options: digits, four constants and the anchor, three seeds, some 35
    minutes on two idle cores. Stop it at any moment; the same command goes on. --arms and --seeds for the same --out add their own runs;
    left out they are all that the folder has.

    Examples: meanstep reproduce latents; meanstep reproduce latents --arms constants schedules --seeds 0 1 2 3 4; meanstep reproduce
    latents --preset latents-dit-s4 --data.source caches/photographs --network.model B/4 --out runs/b4; meanstep launch --array 12
    --gpus-per-node 1 -- reproduce latents --out runs/b4 ...
    """

    out: Path = ROOT
    """Folder of this study; it is made if it does not exist."""
    preset: str = ""
    """A preset of `meanstep train` to start from. Default: the study that is in --out, else digits."""
    config: Path | None = None
    """A YAML file on top of the preset, as for `meanstep train`."""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[ARM ...]", help=ARMS_HELP)] = ("constants", "anchors")
    arms_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=FILE_HELP)] = None
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="[N ...]", help=SEEDS_HELP)] = (0, 1, 2)
    moments: int = 6
    """How often each run is measured, evenly spaced over --run.samples."""
    workers: Annotated[int | None, tyro.conf.arg(help="Runs at a time. Default: one a core, or one a CUDA device.")] = None
    part: Annotated[str, tyro.conf.arg(metavar="K/N", help=PART_HELP)] = ""
    dry_run: bool = False
    """Print the runs, what each costs, and how long all would take here, and stop."""
    measure: Sizes = field(default_factory=Sizes)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    averages: AveragesConfig = field(default_factory=AveragesConfig)
    run_: Annotated[RunConfig, tyro.conf.arg(name="run")] = field(default_factory=RunConfig)

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Latents":
        """The command of a command line: preset, file and the study that is there first, single entries on top."""
        where, _ = tyro.cli(Where, args=[a for a in args if a not in ("--help", "-h")], return_unknown_args=True, add_help=False)
        where = dataclasses.replace(where, out=ROOT if where.out == Path() else where.out)
        there = None if where.preset else held(where.out.expanduser())
        found = based(where, held_config(there) if there else _start(where.preset))
        default = cls(**parts(found), run_=found.run)
        if there:
            settings = dict(there["settings"])
            moments, names, seeds = settings.pop("moments"), tuple(arm["name"] for arm in there["arms"]), tuple(there["seeds"])
            sizes = Sizes(**settings | {"steps": tuple(settings["steps"])})
            default = dataclasses.replace(default, arms=names, seeds=seeds, moments=moments, measure=sizes)
        return tyro.cli(cls, prog="meanstep reproduce latents", default=default, args=args)

    def run(self) -> int:
        """0 when all runs asked for are done, or others are at them, and the report is written; 1 if a run's loss was not finite."""
        study = self.study()
        with ranks(study.config.run.device) as here:
            if here.first:
                return self._first(study, here)
            told = here.told(None)
            if told is None:
                return 0 if self.dry_run else 2
            place, whole, todo, data = told
            pool.in_turn(todo, whole, place, Cache.open(data, verify=False), here)
            return 0

    def _first(self, study: Study, here: Ranks) -> int:
        try:
            cache = data_cache(study.config)
            require()
            _examined(study, cache)
            if self.dry_run:
                here.told(None)
                place = self.out.expanduser()
                count = len(_devices(self.workers, here, study.config.run.device))
                return _dry(completed(study, place, cache), study, place, cache, here, count)
            place, whole, todo = self._begun(study, cache, here)
        except BaseException:
            here.told(None)  # the others wait for it
            raise
        here.told((place, whole, todo, cache.path))
        found = self._done(todo, whole, place, cache, here)
        from meanstep.program.latents.report.page import build, spoken

        page, failed = build(place), _failed(study, place)
        for line in [*_missing(found, failed), *spoken(place), f"report: {page}", f"numbers: {place / 'summary.csv'}"]:
            out.print(line, soft_wrap=True, highlight=False, markup=False)
        return 1 if failed else 0

    def study(self) -> Study:
        """What is asked for, without what its folder holds already; `UserError` for what makes no sense."""
        there = held(self.out.expanduser())
        own = {arm.name: arm for arm in held_arms(there)} if there else {}
        if self.arms_file is not None:
            try:
                own |= from_yaml(self.arms_file.expanduser().read_text(encoding="utf-8"), str(self.arms_file))
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"--arms-file: cannot read {self.arms_file}: {error}") from None
        chosen = arms(self.arms, own)
        if not chosen:
            raise UserError("nothing to train: --arms is empty; leave it out for the paper's coefficients, or name at least one")
        if not self.seeds or min(self.seeds) < 0:
            raise UserError(f"--seeds: at least one, and none below 0, got {' '.join(map(str, self.seeds)) or 'none'}")
        _part([], self.part)
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers: at least one, got {self.workers}")
        if self.moments < 1:
            raise UserError(f"--moments: at least 1, got {self.moments}")
        for name, value in dataclasses.asdict(self.measure).items():
            if name == "steps" and 1 not in value:
                raise UserError(f"--measure.steps: 1 and whatever else, got {' '.join(map(str, value)) or 'none'}")
            if min(value, default=0) < 1 if isinstance(value, tuple) else value < LEAST.get(name, 1):
                raise UserError(f"--measure.{name.replace('_', '-')}: at least {LEAST.get(name, 1)}, got {value}")
        config = checked(Config(**parts(self), run=self.run_))
        if self.moments > (steps := config.run.samples // config.run.batch):
            raise UserError(f"--moments: at most one a step, and {config.run.samples:,} samples are {steps} steps, got {self.moments}")
        return Study(config, chosen, tuple(dict.fromkeys(self.seeds)), self.moments, self.measure, {})

    def _begun(self, study: Study, cache: Cache, here: Ranks) -> tuple[Path, Study, list[Job]]:
        """The folder, the study with what the folder had before, and what is left to do."""
        with locked(self.out) as place:
            whole = completed(study, place, cache)
            jobs = [Job(arm, seed) for seed in study.seeds for arm in study.arms]
            floor = (held(place) or {}).get("floor") or _floor(study, cache, Ranks(0, 1, here.device), place)
            note(place, whole, cache, floor, [(job.arm.name, job.seed) for job in jobs])
        more = [job for job in _longer(whole, place) if job not in jobs]
        return place, whole, pool.left(_part([*jobs, *more], self.part), whole, place)

    def _done(self, todo: list[Job], study: Study, place: Path, cache: Cache, here: Ranks) -> dict[str, str]:
        if not todo:
            return {}
        if here.first:
            err.print(f"{place}: {len(todo)} runs on {len(cache):,} x {' x '.join(map(str, cache.shape))}{_power(study)}", soft_wrap=True)
        if here.size > 1:
            return pool.in_turn(todo, study, place, cache, here)
        return pool.run(todo, study, place, cache, _devices(self.workers, here, study.config.run.device)[: len(todo)])


def _start(preset: str) -> Config:
    """Where a study starts: a preset at a constant rate, so that every moment could be the last, and with one EMA copy for everything."""
    found = started(preset or DEFAULT)
    rate, method = dataclasses.replace(found.optimiser, schedule="constant"), found.method
    method = dataclasses.replace(method, proxy_decay=next(iter(found.averages.decays), method.proxy_decay))
    found = dataclasses.replace(found, optimiser=rate, method=method)
    return found if preset else dataclasses.replace(found, run=dataclasses.replace(found.run, samples=SAMPLES))


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


def _part(jobs: list[Job], part: str) -> list[Job]:
    """Every N-th job, the K-th first."""
    if not part:
        return jobs
    k, _, n = part.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UserError(f"--part: K/N with 1 <= K <= N, such as 2/8, got {part!r}")
    return jobs[int(k) - 1 :: int(n)]


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
        return "; one seed: differences have no interval, and no test is made (--seeds 0 1 2)"
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
    out.print(table)
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
