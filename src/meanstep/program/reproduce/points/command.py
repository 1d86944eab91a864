"""`meanstep reproduce toy` and `meanstep reproduce mixtures`: what is asked for, and whether that can be."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, stage
from meanstep.program.errors import naming
from meanstep.program.flags import DIAGONAL, POWER, TIMES, Device, Seeds, hinted
from meanstep.program.machine import available, cores
from meanstep.program.pages.page import require
from meanstep.program.ranges import Ranged, ranged
from meanstep.program.reproduce.arms import coefficients
from meanstep.program.reproduce.folder import chosen
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.points.settings import (
    DIMENSIONS,
    LEAST_GAP,
    OWN_GAPS,
    PUBLISHED,
    PUBLISHED_SCALES,
    SCALES,
    SETS,
    SIGMAS,
    Settings,
    Spec,
    known_sets,
    mixture_dimension,
)

Scale = Literal["smoke", "quick", "paper"]
Protocol = Literal["ours", "authors"]
DEFAULT = ("paper", "plain@1", "anchored@0", "posterior-both@1", "flow_matching")
THEIRS = ("plain", "trace-t2@1")

ARMS_HELP = (
    "What to train: ARM@BETA,BETA restricts an arm to some coefficients. Swept over beta: paper (EMA copy in the tangent, anchor at "
    "beta = 1 only), plain (never an anchor), anchored (always), own, posterior, oracle (other proxies in the tangent), ema-both, "
    "own-both, posterior-both, oracle-both (the proxy in tangent and target), "
    f"{', '.join(f'trace-{sigma}' for sigma in SIGMAS)} (EMA copy in the tangent, and the trace weight of the authors' first draft with "
    "sigma 1, t, t^2, sqrt(t(1-t)), 1/sqrt((1-t)^2+t^2)). One model: matrix, matrix-oracle (beta per (r, t) from "
    "the exact law), flow_matching, alpha_flow, improved_meanflow, terminal_velocity, split_meanflow, solution_flow, shortcut."
)
SEEDS_HELP = "Which seeds: 0:3 (without 3), 3,5,8 or 0:4,7. Models of one seed share all draws, so that differences are paired."
WORKERS_HELP = "How many at a time: processes, each on one thread. The results do not depend on it."
BETAS_HELP = "Coefficients of the swept arms, in [0, 1]."
SETS_HELP = f"Which data: {', '.join(SETS)}, or mixture-D."
PROTOCOL_HELP = (
    "Whose settings: ours, or those of the paper's authors as their public toy code has them: network, sets unscaled, "
    "batch, times and their cap, rows, rate, averages, no anchor, 4,096 samples along 500 directions, seeds 42, 0, 1, the gradient's "
    "variance measured in training."
)
CENTRES_HELP = "Of the authors' mixtures: drawn anew for every batch, as their code does, or once."
GAP_HELP = "The largest t - r that is trained, at least 0.02: gaps above it are cut. One jump from noise to data has gap 1."
FOLDER = "Where results go: the study's folder; it is made if it does not exist."
THERE = ("plain", "own", "posterior", "ema-both", "own-both", "posterior-both", "flow_matching")
"""Arms that can be trained under the authors' protocol, beside those with the trace weight."""
STANDARD = {"times": "uniform", "lr": 1e-3, "power": 0.0}
POINTS_HELP = "Your own points as one more set: .csv, .npy or .parquet, a point a row, two or more columns. Standardised; half is held out."


@dataclass(frozen=True)
class _Sweep(Ranged):
    """What both studies share."""

    scale: Scale = "quick"
    """smoke: under a minute, for a look; quick: up to ten minutes on two cores; paper: 200,000 updates, hours on two cores."""
    protocol: Annotated[Protocol, tyro.conf.arg(help=PROTOCOL_HELP)] = "ours"
    arms: Annotated[tuple[str, ...], hinted(ARMS_HELP, f"{' '.join(DEFAULT)}; authors: {' '.join(THEIRS)}", "[ARM ...]")] = ()
    seeds: Annotated[Seeds | None, hinted(SEEDS_HELP, "by the scale: 0,1 and 0:3; authors: 42,0 and 42,0,1", "SEEDS")] = None
    updates: Annotated[
        int | None, hinted("Training steps of each model.", "by the scale: 160, 2,800 (authors: 12,000), 200,000", "N from 1")
    ] = None
    batch: Annotated[
        int | None,
        hinted("Rows at a time: of a training step.", "by the scale: 128, 256, 1024; authors: 256", "N from 8 to 1048576"),
    ] = None
    diagonal_share: Annotated[float | None, hinted(DIAGONAL, "0.5; authors: 0.25, a coin a row", "FLOAT above 0 below 1")] = None
    times: Annotated[Literal["uniform", "logit-normal"], tyro.conf.arg(help=TIMES)] = "uniform"
    largest_gap: Annotated[float | None, hinted(GAP_HELP, "none; authors: 0.5", "FLOAT above 0 to 1")] = None
    rate: Annotated[float, ranged("FLOAT above 0 below 1000")] = 1e-3
    """The learning rate: Adam's, constant; authors: falls by a cosine to a hundredth of it."""
    power: Annotated[float, tyro.conf.arg(help=POWER, metavar="FLOAT from 0 to 4")] = 0.0
    workers: Annotated[int | None, hinted(WORKERS_HELP, "one a core", "N from 1 to 4096")] = None
    device: Device = "auto"

    def _settings(self, sets: Sequence[str], betas: Sequence[float], points: Path | None) -> Settings:
        theirs = self.protocol == "authors"
        scale = dict(PUBLISHED_SCALES[self.scale] | PUBLISHED if theirs else SCALES[self.scale])
        given = {"steps": self.updates, "batch": self.batch, "seeds": self.seeds, "diagonal_share": self.diagonal_share}
        given |= {
            name: value for name, value in (("times", self.times), ("lr", self.rate), ("power", self.power)) if value != STANDARD[name]
        }
        scale |= {name: value for name, value in given.items() if value is not None}
        settings = Settings(
            sets=tuple(dict.fromkeys(sets)),
            betas=tuple(betas),
            arms=tuple(dict.fromkeys(self.arms or (THEIRS if theirs else DEFAULT))),
            largest_gap=0.5 if theirs and self.largest_gap is None else self.largest_gap,
            protocol=self.protocol,
            centres=self._centres(),
            points=None if points is None else str(points.expanduser().resolve()),
            digest=None if points is None else hashlib.sha256(points.expanduser().read_bytes()).hexdigest(),
            **scale,
        )
        _check(settings)
        return settings

    def _centres(self) -> str | None:
        return None

    def _go(self, settings: Settings, named: Path | None, study: str) -> int:
        if flags.device(self.device) == "mps":
            raise UserError("--device: a sweep runs on cpu or cuda, got 'mps'")
        require()
        if named is not None:
            flags.folder(named)
        with stage("importing PyTorch"):
            from meanstep.program.reproduce.points import sets
            from meanstep.program.reproduce.points.study import Sweep
            from meanstep.program.reproduce.session import conduct
        if settings.points is not None:
            with naming("--points"):
                sets.load(settings.points)
        device = available(self.device)
        sweep = Sweep(study, replace(settings, ensemble=device.type == "cuda"))
        count = 1 if sweep.settings.ensemble else self.workers or cores()
        conduct(sweep, chosen(named, Path("runs") / study, sweep), [str(device)] * count)
        return 0


@dataclass(frozen=True)
class Toy(_Sweep):
    """Train the coefficient sweep on two-dimensional data and write a report: does beta lower the variance, does it improve samples?

    Six sets whose densities are known under our protocol, and so the marginal velocity, the noise and its optimal coefficient too.
    Interrupt it at any moment; the same command goes on with the same final numbers. It writes report.html, summary.csv, figures/ and
    records.jsonl. docs/sweep.md says more.

    Examples: meanstep reproduce toy; meanstep reproduce toy --scale smoke --out runs/look; meanstep reproduce toy --sets two_moons --arms
    paper posterior-both oracle-both --seeds 0:5; meanstep reproduce toy --points mine.csv
    """

    sets: Annotated[tuple[str, ...], hinted(SETS_HELP, "the six; none with --points", "[SET ...]")] = ()
    betas: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[BETA from 0 to 1 ...]", help=BETAS_HELP)] = ("0", "0.25", "0.5", "0.75", "1")
    points: Annotated[Path | None, hinted(POINTS_HELP, "none", "FILE")] = None
    out: Annotated[Path | None, hinted(FOLDER, "runs/toy, or runs/toy-2, ... where that is another study's", "FOLDER")] = None

    def run(self) -> int:
        """0 when the report is written. `UserError` for settings that make no sense."""
        flags.readable(self.points, "--points")
        sets = self.sets or (() if self.points is not None else SETS)
        return self._go(
            self._settings([*sets, *(["points"] if self.points else [])], coefficients(self.betas), self.points), self.out, "toy"
        )


@dataclass(frozen=True)
class Mixtures(_Sweep):
    """Train the coefficient sweep on Gaussian mixtures of growing dimension and write a report.

    Eight Gaussians with standard deviation 0.3 in d = 2 to 64 dimensions, of unit variance in all; under the authors' protocol 64
    about a sphere, with other centres for every batch. docs/sweep.md says more.

    Examples: meanstep reproduce mixtures; meanstep reproduce mixtures --dims 64 --seeds 0:5; meanstep reproduce mixtures --protocol
    authors --centres fixed --dims 16
    """

    dims: Annotated[tuple[int, ...], tyro.conf.arg(metavar="[D from 2 to 256 ...]")] = DIMENSIONS
    """Dimensions, 2 to 256."""
    betas: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[BETA from 0 to 1 ...]", help=BETAS_HELP)] = (
        "0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1",
    )
    centres: Annotated[Literal["redrawn", "fixed"] | None, hinted(CENTRES_HELP, "redrawn under authors", "{redrawn,fixed}")] = None
    out: Annotated[Path | None, hinted(FOLDER, "runs/mixtures, or runs/mixtures-2, ... where that is another study's", "FOLDER")] = None

    def run(self) -> int:
        """0 when the report is written. `UserError` for settings that make no sense."""
        if not self.dims:
            raise UserError("nothing to train: --dims is empty; leave it out for its default, or give at least one")
        sets = [f"mixture-{dim}" for dim in dict.fromkeys(self.dims)]
        return self._go(self._settings(sets, coefficients(self.betas), None), self.out, "mixtures")

    def _centres(self) -> str | None:
        if self.protocol == "authors":
            return self.centres or "redrawn"
        if self.centres is not None:
            held = f"--centres {self.centres}: the mixtures of --protocol ours have centres that stay"
            raise UserError(f"{held}: leave it out, or use --protocol authors")
        return None


def _contradicted(settings: Settings) -> None:
    """`UserError` for the first setting that is not the authors'."""
    own = "leave it out, or use --protocol ours"
    if settings.points:
        raise UserError(f"--points: the authors' protocol has their sets, unscaled, and none of yours: {own}")
    for name, value in PUBLISHED.items():
        if getattr(settings, name) != value:
            option = KIND.option(name)
            raise UserError(f"{option} {getattr(settings, name)}: the authors' protocol has {value}: {own}")
    for _, _, spec in settings.lines():
        if why := _untold(spec):
            there = ", ".join([*THERE, *(f"trace-{sigma}" for sigma in SIGMAS)])
            raise UserError(f"--arms: {spec.id} {why}: choose among {there}, or use --protocol ours")


def _untold(spec: Spec) -> str:
    """Why the authors' protocol does not train a model; empty for one that it does."""
    if spec.anchor:
        return "has a flow-matching anchor, which the authors' toy code has not"
    if spec.matrix or spec.proxy == "oracle":
        return "needs the exact law of the data, and the authors' sets are draws only"
    return "" if spec.by_hand else "is a recipe of its own, which the authors did not train"


def _check(settings: Settings) -> None:
    """`UserError` for the first setting that makes no sense."""
    known = (*known_sets(), *(["points"] if settings.points else []))
    for name in settings.sets:
        if name not in known and mixture_dimension(name) is None:
            raise UserError(f"there is no set {name!r}: choose among {', '.join(known_sets())}, or give your own with --points FILE")
    if settings.protocol == "authors":
        _contradicted(settings)
    settings.lines()
    for option, held in (("--arms", settings.arms), ("--betas", settings.betas)):
        if not held:
            raise UserError(f"nothing to train: {option} is empty; leave it out for its default, or name at least one")
    wrong = [
        (
            not 1 <= settings.moving < settings.batch,
            f"--diagonal-share {settings.diagonal_share:g} leaves no row of {settings.batch} moving",
        ),
        (
            settings.largest_gap is not None and settings.largest_gap < LEAST_GAP,
            f"--largest-gap {settings.largest_gap}: samples are made in jumps within it, at most 50: give at least {LEAST_GAP}",
        ),
        (
            settings.largest_gap is not None and bool(OWN_GAPS & {*settings.arms}),
            f"--largest-gap {settings.largest_gap}: the arm {min(OWN_GAPS)} has gaps of its own, which no cap changes: leave one out",
        ),
    ]
    for bad, message in wrong:
        if bad:
            raise UserError(message)
    exact = [arm for arm in settings.arms if "matrix" in arm]
    if exact and "points" in settings.sets:
        raise UserError(f"the arm {exact[0]} needs the exact law of the data, which is unknown for --points: leave it out")
