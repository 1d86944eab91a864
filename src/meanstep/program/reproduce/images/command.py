"""`meanstep reproduce latents`: what is asked for, and whether that can be. `session` does it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage
from meanstep.program.errors import naming
from meanstep.program.flags import Seeds, hinted
from meanstep.program.pages.page import require
from meanstep.program.parsing import known
from meanstep.program.ranges import Ranged, ranged
from meanstep.program.reading import files, trees
from meanstep.program.reproduce.images import KIND
from meanstep.program.reproduce.images import protocol as protocols
from meanstep.program.reproduce.images.arms import GROUPS, OFFERS, SINGLES, SWEPT, arms, from_yaml
from meanstep.program.reproduce.images.settings import Plan, Sizes, held_arms, held_config, held_sizes, parted
from meanstep.program.reproduce.study import held
from meanstep.program.runs import options
from meanstep.program.runs.config import (
    AveragesConfig,
    Config,
    DataConfig,
    NetworkConfig,
    OptimiserConfig,
    RunConfig,
    checked,
)
from meanstep.program.runs.method import MethodConfig
from meanstep.program.training.command import CONFIG, PRESET, Where, based, parts, started
from meanstep.program.training.command import examined as possible
from meanstep.program.training.presets import DEFAULT

ROOT, SAMPLES = Path("runs/latents"), 100_000
LEAST = {"count": 64, "rows": 64, "rows_at": 16}
_GROUPS = ", ".join(f"{name} ({' '.join(members)})" for name, members in GROUPS.items())
ARMS_HELP = (
    f"What to train: groups {_GROUPS}; single arms "
    f"{', '.join(SINGLES)}, and with a coefficient {', '.join(f'{kind}@BETA' for kind in SWEPT)}. Further ones by --arms-file."
)
FILE_HELP = "Arms of your own, YAML: 'late: {recipe: coefficient, options: {beta: {over_t: [0, 1, 8]}, anchor: 0}}'. Name them in --arms."
_THEIRS = OFFERS[protocols.AUTHORS]
PROTOCOL_HELP = (
    "Whose settings: ours, or those of the DiT of the paper's authors, as their code and run configurations have them: guidance, times, "
    f"weight, optimiser, anchor on every row. Its arms: {', '.join(f'{kind}@BETA' for kind in _THEIRS.swept)}; groups "
    f"{', '.join(_THEIRS.groups)}. Batch, rate, network and EMA decay may "
    "differ, and the study says so."
)
SEEDS_HELP = (
    "Which seeds: 0:3 (without 3), 3,5,8 or 0:4,7. Arms of one seed share weights, order, noise and times; three or more tell differences."
)
PART_HELP = "K/N: do every N-th run only, for N processes or jobs that share --out (1/4, 2/4, ...). The last one has all for the report."
WORKERS_HELP = "How many at a time: runs."


@dataclass(frozen=True)
class _Where(Where):
    protocol: str = protocols.OURS


@dataclass(frozen=True)
class StudyRun(RunConfig):
    """How long and how each run trains. The study itself decides on seeds, moments and what is kept."""

    seed: tyro.conf.Suppress[int] = 0
    sample_every: tyro.conf.Suppress[int] = 100_000
    evaluate_every: tyro.conf.Suppress[int] = 100_000
    save_every: tyro.conf.Suppress[int] = 100_000
    keep: tyro.conf.Suppress[int] = 2
    evaluate_count: tyro.conf.Suppress[int] = 1024


@dataclass(frozen=True)
class Latents(Ranged):
    """Train arms of the coefficient side by side on images or latents, and report: is the quietest gradient the best generator?

    Each arm and seed is a run of `meanstep train`, measured at the same moments: distances in 1, 2 and 4 steps, raw and EMA weights;
    the loss's variance over t; the residual's noise over beta. Without options: digits, four constants and the anchor, three seeds, some 35
    minutes on two idle cores. Stop it at any moment; the same command goes on. --arms and --seeds for the same --out add their own runs;
    left out they are all that the folder has. docs/latents.md says more.

    Examples: meanstep reproduce latents; meanstep reproduce latents --arms constants schedules --seeds 0:5; meanstep reproduce
    latents --preset latents-dit-s4 --data.source caches/photographs --network.model B/4 --out runs/b4; meanstep launch --array 12
    --gpus-per-node 1 -- reproduce latents --out runs/b4 ...
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = ROOT
    """Where results go: the study's folder; it is made if it does not exist."""
    protocol: Annotated[Literal["ours", "authors"], tyro.conf.arg(help=PROTOCOL_HELP)] = "ours"
    preset: Annotated[str | None, hinted(PRESET, "what is in --out, else digits", "NAME")] = None
    config: Annotated[Path | None, hinted(CONFIG, "none", "FILE")] = None
    arms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[ARM ...]", help=ARMS_HELP)] = ("constants", "anchors")
    arms_file: Annotated[Path | None, hinted(FILE_HELP, "none", "FILE")] = None
    seeds: Annotated[Seeds, tyro.conf.arg(help=SEEDS_HELP)] = (0, 1, 2)
    moments: Annotated[int, ranged("INT from 1 to 1000")] = 6
    """How often each run is measured, evenly spaced over --samples."""
    workers: Annotated[int | None, hinted(WORKERS_HELP, "one a core, or one a CUDA device", "N from 1 to 4096")] = None
    part: Annotated[str | None, hinted(PART_HELP, "all runs", "K/N")] = None
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be made, and make nothing: the runs, what each costs, how long all would take here."""
    measure: Sizes = field(default_factory=Sizes)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimiser: tyro.conf.OmitArgPrefixes[OptimiserConfig] = field(default_factory=OptimiserConfig)
    averages: AveragesConfig = field(default_factory=AveragesConfig)
    run_: tyro.conf.OmitArgPrefixes[Annotated[StudyRun, tyro.conf.arg(name="run")]] = field(default_factory=StudyRun)

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Latents":
        """The command of a command line: preset, file and the study that is there first, single entries on top."""
        where = known(_Where, args)
        there = None if where.preset else held((where.out or ROOT).expanduser(), KIND)
        theirs = where.protocol == protocols.AUTHORS
        found = based(where, held_config(there) if there else _start(where.preset, theirs))
        default = cls(**parts(found), run_=StudyRun(**vars(found.run)))
        if there:
            names, seeds, moments = tuple(arm["name"] for arm in there["arms"]), tuple(there["seeds"]), there["settings"]["moments"]
            held_words = {"arms": names, "seeds": seeds, "moments": moments, "measure": held_sizes(there), "protocol": protocols.of(there)}
            default = dataclasses.replace(default, **held_words)
        elif theirs:
            default = dataclasses.replace(default, arms=("paper", "controls"))
        return options.parsed(cls, "reproduce latents", args, default)

    def run(self) -> int:
        """0 when all runs asked for are done, or others are at them, and the report is written; 1 if a run's loss was not finite."""
        plan = self.study()
        possible(plan.config)
        require()
        flags.folder(self.out)
        with stage("importing PyTorch"):
            from meanstep.program.reproduce.images import session
        return session.run(self, plan)

    def study(self) -> Plan:
        """What is asked for, without what its folder holds already; `UserError` for what makes no sense."""
        there = held(self.out.expanduser(), KIND)
        if there and (other := protocols.of(there)) != self.protocol:
            remedy = f"choose another folder with --out for --protocol {self.protocol}, or give --protocol {other}"
            raise UserError(f"{self.out} holds a study of --protocol {other}, not of --protocol {self.protocol}: {remedy}")
        theirs = self.protocol == protocols.AUTHORS
        if theirs and self.arms_file is not None:
            raise UserError(f"--protocol authors and --arms-file {self.arms_file}: it has its own arms, leave one of the two out")
        own = {arm.name: arm for arm in held_arms(there)} if there else {}
        if self.arms_file is not None:
            with naming("--arms-file"):
                own |= from_yaml(files.text(self.arms_file.expanduser(), trees.LONG), str(self.arms_file))
        chosen = arms(self.arms, own, self.protocol)
        if not chosen:
            raise UserError("nothing to train: --arms is empty; leave it out for the paper's coefficients, or name at least one")
        parted(self.part)
        for name, value in dataclasses.asdict(self.measure).items():
            if name == "steps" and 1 not in value:
                raise UserError(f"--measure.steps: 1 and whatever else, got {' '.join(map(str, value)) or 'none'}")
            if min(value, default=0) < 1 if isinstance(value, tuple) else value < LEAST.get(name, 1):
                raise UserError(f"--measure.{name.replace('_', '-')}: at least {LEAST.get(name, 1)}, got {value}")
        config = checked(Config(**parts(self), run=RunConfig(**vars(self.run_))))
        config = protocols.settled(config) if theirs else config
        if self.moments > (steps := config.run.samples // config.run.batch):
            raise UserError(f"--moments: at most one a step, and {config.run.samples:,} samples are {steps} steps, got {self.moments}")
        return Plan(config, chosen, self.seeds, self.moments, self.measure, {}, self.part, self.protocol)


def _start(preset: str | None, theirs: bool = False) -> Config:
    """Where a study starts: a preset at a constant rate, so that every moment could be the last, and with one EMA copy for everything.

    `theirs`: with all that the authors' protocol says.
    """
    found = started(preset or DEFAULT)
    rate, method = dataclasses.replace(found.optimiser, schedule="constant"), found.method
    method = dataclasses.replace(method, proxy_decay=next(iter(found.averages.decays), method.proxy_decay))
    found = dataclasses.replace(found, optimiser=rate, method=method)
    found = protocols.applied(found) if theirs else found
    return found if preset else dataclasses.replace(found, run=dataclasses.replace(found.run, samples=SAMPLES))
